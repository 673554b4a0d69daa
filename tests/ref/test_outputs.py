"""Outputs appear whole or not at all; what a killed process staged is removed by the next run."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ttt_ref import outputs
from ttt_ref.errors import ConfigError
from ttt_ref.outputs import Staged, refuse_inputs, remove_leftovers, staged, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def killed(folder: Path, code: str) -> None:
    """Run a program that says "staged" when it holds something, and kill it there."""
    program = f"import time\nfrom ttt_ref.outputs import Staged\n{textwrap.dedent(code)}"
    program += "\nprint('staged', flush=True)\ntime.sleep(60)\n"
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=folder, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"staged\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_is_not_committed_leaves_no_trace(tmp_path, is_folder):
    target = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), staged(target, folder=is_folder):
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_an_older_file_stays_until_the_new_one_is_whole(tmp_path):
    target = tmp_path / "a.json"
    target.write_text("old")
    with staged(target) as path:
        path.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert names(tmp_path) == ["a.json"]


def test_a_folder_replaces_one_that_is_not_empty(tmp_path):
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "old").write_text("1")
    with staged(target, folder=True) as path:
        (path / "new").write_text("2")
    assert names(target) == ["new"]
    assert names(tmp_path) == ["bundle"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "real" / "file.txt")
    write_whole(tmp_path / "link.txt", "text")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real" / "file.txt").read_text() == "text"


@pytest.mark.parametrize("is_folder", [False, True])
def test_the_next_run_removes_what_a_killed_one_left(tmp_path, is_folder):
    killed(tmp_path, f"held = Staged('out', folder={is_folder})")
    assert [name for name in names(tmp_path) if name.endswith(".part")]
    Staged(tmp_path / "out").discard()
    assert names(tmp_path) == []


def test_a_folder_that_a_killed_run_had_set_aside_is_put_back(tmp_path):
    (tmp_path / ".out.0123abcd.old").mkdir()
    (tmp_path / ".out.0123abcd.old" / "weights").write_text("1")
    remove_leftovers(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "weights").read_text() == "1"


def test_what_a_living_process_holds_stays(tmp_path):
    with Staged(tmp_path / "out") as held:
        remove_leftovers(tmp_path / "out")
        assert held.path.exists()


def test_other_files_are_never_taken_for_left_behind(tmp_path):
    kept = [".other.0123abcd.part", ".out.part", ".out.0123abcd.part.txt", "out.0123abcd.part"]
    for name in kept:
        (tmp_path / name).write_text("1")
    remove_leftovers(tmp_path / "out")
    assert names(tmp_path) == sorted(kept)


def test_a_link_in_place_of_a_leftover_is_not_followed(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / ".out.0123abcd.part").symlink_to(tmp_path / "precious")
    remove_leftovers(tmp_path / "out")
    assert (tmp_path / "precious").is_dir()


def test_a_full_disk_names_the_target(tmp_path):
    with pytest.raises(OSError, match=r"report\.json") as caught, staged(tmp_path / "report.json"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(tmp_path / "report.json")


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(OSError) as caught, staged(tmp_path / "report.json"):
        (tmp_path / "nothing").stat()
    assert caught.value.filename == str(tmp_path / "nothing")


def test_a_missing_folder_names_the_target(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write_whole(tmp_path / "none" / "a.json", b"")
    assert caught.value.filename == str(tmp_path / "none" / "a.json")


def test_long_names_leave_room_for_the_staging(tmp_path):
    target = tmp_path / ("ü" * 127)
    write_whole(target, b"x")
    assert target.read_bytes() == b"x"


def test_without_locks_nothing_is_removed(tmp_path, monkeypatch):
    (tmp_path / ".out.0123abcd.part").write_text("1")
    monkeypatch.setattr(outputs, "fcntl", None)
    write_whole(tmp_path / "out", b"x")
    assert names(tmp_path) == [".out.0123abcd.part", "out"]


def test_an_input_is_refused_by_any_name(tmp_path):
    source = tmp_path / "q.wav"
    source.write_bytes(b"x")
    (tmp_path / "link.wav").symlink_to(source)
    (tmp_path / "hard.wav").hardlink_to(source)
    for name in ("q.wav", "link.wav", "hard.wav", "../" + tmp_path.name + "/q.wav"):
        with pytest.raises(ConfigError, match="is the input"):
            refuse_inputs([tmp_path / name], [source])
    refuse_inputs([tmp_path / "new.wav"], [source, tmp_path / "missing.wav"])
