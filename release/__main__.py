"""Build the files of a release and try each: ``make wheels``, or ``python -m release``.

Leaves the archive and the wheels in dist/release. Every Python from 3.10 to 3.14 that can be had
(`interpreters`) builds both wheels, which must be the same, and runs the one for this processor,
installed into an empty environment with no compiler in sight, and one compiled from the archive.
Debian's Pythons for the other processor run its wheel under qemu's emulation. Where no Python can
be had, pip is asked whether it would find all that the wheel needs. `--python 12` tries fewer.
Debian: mmdebstrap, qemu-user-static, gcc-aarch64-linux-gnu, libc6-dev-arm64-cross.
"""

from __future__ import annotations

import argparse
import platform
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from release.build import (
    CROSS,
    ROOT,
    Wheel,
    audited,
    build_again,
    build_sdist,
    build_tools,
    build_wheel,
)
from release.interpreters import ROOTS, find_python
from release.roots import SUITES, unpack
from release.trials import Trial, resolve, try_base, try_interpreter, try_root

OUT = ROOT / "dist" / "release"
WORK = ROOT / "build" / "release"
MINORS = range(10, 15)


def build_all(pythons: dict[int, str]) -> tuple[Path, dict[str, Wheel]]:
    """Build archive and wheels with the first Python, and the wheels again with every other."""
    sdist = build_sdist(OUT)
    wheels: dict[str, Wheel] = {}
    built = 0
    for minor, interpreter in pythons.items():
        python = build_tools(interpreter, WORK / f"build-3.{minor}")
        for machine in CROSS:
            work = WORK / f"wheel-3.{minor}-{machine}"
            if machine in wheels:
                build_again(python, sdist, wheels[machine], work)
            else:
                wheels[machine] = build_wheel(python, sdist, machine, OUT, work)
                print(f"{wheels[machine].path.name}: {audited(wheels[machine])}", flush=True)
            built += 1
    print(f"{built} wheels built, the same files with each Python\n", flush=True)
    return sdist, wheels


def trials(
    minors: list[int], pythons: dict[int, str], sdist: Path, wheels: dict[str, Wheel]
) -> Iterator[Callable[[], Trial]]:
    """Return what is to be tried, in order."""
    native = wheels[platform.machine()].path
    newest = pythons[max(pythons)]
    compiled = partial(try_interpreter, native=True, compiler=True)
    for python in pythons.values():
        yield partial(try_interpreter, python, native, WORK, native=True)
        yield partial(compiled, python, sdist, WORK)
    yield partial(try_base, newest, native, WORK)
    yield partial(try_interpreter, newest, sdist, WORK, native=False)
    for machine, wheel in wheels.items():
        emulated = machine != platform.machine()
        for minor in minors:
            if emulated and minor in SUITES:
                yield partial(try_suite, SUITES[minor], machine, wheel.path)
            elif emulated or minor not in pythons:
                pip = pythons.get(minor, newest)
                yield partial(resolve, pip, machine, minor, wheel.path, WORK)


def try_suite(suite: str, machine: str, wheel: Path) -> Trial:
    """Unpack a Debian of another processor and ask its Python."""
    return try_root(unpack(suite, machine, ROOTS), wheel, WORK)


def main() -> None:
    """Build, audit, try, and print one row for each trial."""
    parser = argparse.ArgumentParser(prog="python -m release")
    parser.add_argument("--python", action="append", type=int, choices=MINORS, metavar="MINOR")
    minors = parser.parse_args().python or list(MINORS)
    for folder in (OUT, WORK):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    found = {minor: find_python(minor) for minor in minors}
    pythons = {minor: path for minor, path in found.items() if path is not None}
    if not pythons:
        raise SystemExit(f"this machine has no Python of 3.{minors}")
    sdist, wheels = build_all(pythons)
    print("| installed | where | answer |\n| --- | --- | --- |", flush=True)
    done = []
    for trial in trials(minors, pythons, sdist, wheels):
        done.append(trial())
        print(done[-1].line(), flush=True)
    said = {trial.said for trial in done if trial.said}
    if len(said) > 1:
        raise SystemExit(f"the trials do not say the same: {sorted(said)}")
    asked = sum(1 for trial in done if trial.said)
    print(f"\n{asked} installations answered {said.pop()!r}", flush=True)


if __name__ == "__main__":
    main()
