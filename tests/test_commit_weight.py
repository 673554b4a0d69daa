"""The check that refuses heavy commits, on repositories made for it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_architecture import ROOT

SCRIPT = ROOT / ".ci" / "check_weight.py"


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


def commit(folder: Path, **sizes: int) -> None:
    for name, size in sizes.items():
        filling = (folder / name).stat().st_size % 251 if (folder / name).exists() else 0
        (folder / name).write_bytes(bytes([filling]) * size)  # compresses to nothing
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "more")


def check(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *words], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q", "-b", "main")
    commit(tmp_path, old=50_000_000)
    return tmp_path


def test_what_was_there_before_does_not_count(repository: Path):
    assert "nothing to compare" in check(repository).stdout
    commit(repository, weights=39_000_000, small=10)
    done = check(repository)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "HEAD^..HEAD: 39.0 MB added\n"


def test_a_range_that_adds_too_much_is_refused(repository: Path):
    commit(repository, first=25_000_000)
    commit(repository, second=16_000_000)
    assert check(repository).returncode == 0
    done = check(repository, "HEAD~2..HEAD")
    assert done.returncode == 1
    assert "add 41.0 MB, at most 40 MB are accepted (first 25.0 MB, second 16.0 MB)" in done.stderr


def test_weights_that_a_later_commit_removes_count(repository: Path):
    commit(repository, weights=41_000_000)
    (repository / "weights").unlink()
    commit(repository, small=1)
    assert check(repository, "HEAD~2..HEAD").returncode == 1


def test_two_versions_of_one_binary_are_refused(repository: Path):
    commit(repository, weights=2_000_000)
    commit(repository, weights=2_000_001)
    done = check(repository, "HEAD~2..HEAD")
    assert done.returncode == 1
    assert "weights has 2 versions above 1 MB" in done.stderr


def test_a_range_that_is_not_there_is_one_line(repository: Path):
    done = check(repository, "nowhere..HEAD")
    assert done.returncode == 2
    assert done.stderr.startswith("error: git rev-list: ")
    assert done.stderr.count("\n") == 1
