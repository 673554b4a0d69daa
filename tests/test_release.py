"""How wheels are built and Pythons found, without building any: that is `make wheels`."""

from __future__ import annotations

import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from release import build, interpreters, roots, trials
from release.roots import Root
from tests import arm, pythons


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_python_that_is_there_and_does_not_run_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pyenv's `python3.10` is on the PATH, and fails while another version is chosen."""
    shim = program(tmp_path / "shims/python3.10", "exit 127")
    real = program(tmp_path / "pyenv/versions/3.10.13/bin/python3.10", "exit 0")
    monkeypatch.setenv("PATH", str(shim.parent), prepend=":")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    assert interpreters.find_python(10) == str(real)


def test_a_python_that_no_debian_has_is_not_invented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert interpreters.find_python(12) is None


def debian(folder: Path) -> Root:
    for name in ("python3.13", "python3.13-config", "python3"):
        file = folder / "usr/bin" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return Root(folder, "aarch64")


def test_another_processors_python_is_started_with_its_own_libraries(tmp_path: Path) -> None:
    root = debian(tmp_path / "root")
    assert root.minor == 13
    command = root.command("max")
    assert command[:5] == ["qemu-aarch64-static", "-cpu", "max", "-L", str(root.path)]
    assert command[-1] == str(root.path / "usr/bin/python3.13")
    assert f"LD_LIBRARY_PATH={root.libraries}" in command
    assert "asimddp" in (root.path / "proc/cpuinfo").read_text()  # the host's would kill it
    assert root.environment(Path("a"), Path("b"))["PYTHONPATH"] == "a:b"


def test_debians_python_is_patched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = debian(tmp_path / "root")
    (root.path / "lib64").mkdir()
    (root.path / "lib64/ld-linux-x86-64.so.2").touch()
    calls = tmp_path / "calls"
    tool = program(tmp_path / "tools/patchelf", f'echo "$@" >> {calls}')
    monkeypatch.setattr(interpreters.sys, "executable", str(tool.parent / "python"))
    for _ in range(2):
        assert interpreters.adapt(root) == root.python
    (line,) = calls.read_text().splitlines()
    assert line.split()[:2] == ["--set-interpreter", f"{root.path}/lib64/ld-linux-x86-64.so.2"]
    assert line.split()[-2:] == [root.libraries, str(root.python)]


def test_packages_are_asked_for_the_other_python_and_wheels_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def fake(command: list[str], **more: Any) -> Any:
        seen.append(command)
        return SimpleNamespace(returncode=1, stdout="", stderr="no such wheel")

    monkeypatch.setattr(roots.subprocess, "run", fake)
    with pytest.raises(RuntimeError, match="no such wheel"):
        debian(tmp_path / "root").install(tmp_path / "site", ["numpy"])
    expected = {"--only-binary=:all:", "--abi=cp313", "--platform=manylinux_2_28_aarch64"}
    assert expected <= set(seen[0])
    assert seen[0][-1] == "numpy"


def wheel(path: Path, **files: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def test_another_python_must_build_the_same_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = wheel(tmp_path / "a.whl", one="1", two="2")
    built = build.Wheel(first, "x86_64", build.contents(first))
    again = wheel(tmp_path / "b.whl", one="1", two="3", three="")
    monkeypatch.setattr(build, "build_raw", lambda *_: first)
    build.build_again(Path("python"), Path("archive"), built, tmp_path)
    monkeypatch.setattr(build, "build_raw", lambda *_: again)
    with pytest.raises(SystemExit, match="another wheel for x86_64: three, two"):
        build.build_again(Path("python"), Path("archive"), built, tmp_path)


@pytest.mark.parametrize("found", ['"manylinux_2_28_x86_64"', "nothing of the kind"])
def test_a_name_that_promises_an_older_system_is_refused(
    monkeypatch: pytest.MonkeyPatch, found: str
) -> None:
    file = build.Wheel(Path("ttt_edge-1-py3-none-manylinux_2_17_x86_64.whl"), "x86_64", {})
    monkeypatch.setattr(build, "run", lambda command: f"constrains the platform tag to {found}.")
    with pytest.raises(SystemExit, match="not what its name says"):
        build.audited(file)


def test_what_a_refusal_names_can_be_installed() -> None:
    line = "error: onnxruntime is not installed; run: pip install '/a/b.whl[cpu]' (or [gpu])"
    assert trials.extra_named(line) == "/a/b.whl[cpu]"
    assert trials.extra_named("error: onnxruntime is not installed") is None


def test_one_answer_comes_with_its_ids() -> None:
    answered = arm.answer_ids("cpu+onnxruntime")
    assert answered["text"] == "the capital of france is paris"
    assert len(answered["ids"]) > 100
    assert "onnxruntime" in answered["runs_in"]


@pytest.mark.parametrize(("options", "status"), [([], 1), (["--if-there"], 0)])
def test_a_python_that_cannot_be_had_is_named(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    status: int,
) -> None:
    monkeypatch.setattr(pythons, "export_bundles", lambda: None)
    monkeypatch.setattr(pythons, "find_python", lambda minor: None if minor == 12 else "p")
    asked: list[tuple[str, str, str | None]] = []
    monkeypatch.setattr(pythons, "run_tests", lambda *words: asked.append(words) or 0)
    for name in ("PYTHONPATH", "TTT_BASIC_BUNDLES", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")
    assert pythons.main([*options, "3.12", "3.10:1.20.1", "3.14"]) == status
    assert asked == [("p", "3.10:1.20.1", "1.20.1"), ("p", "3.14", None)]
    assert "Python 3.12: cannot be had here" in capsys.readouterr().out


def test_environments_get_what_the_package_asks_for() -> None:
    newest, pinned = pythons.requirements(None), pythons.requirements("1.20.1")
    assert "onnxruntime==1.20.1" in pinned
    assert any(line.startswith("onnxruntime>=") for line in newest)
    assert any(line.startswith("numpy") for line in newest)
    assert not any(line.startswith("onnxruntime>") for line in pinned)
    assert not any("starlette" in line for line in pythons.requirements(None, ["cpu"]))
