"""Build the files of a release and try each: ``make wheels``, or ``python -m release``.

    python -m release --python python3.10 --python python3.13 --root aarch64=/roots/bookworm-arm64

leaves the archive and the wheels in dist/release. `--root` tries a wheel with the Python of an
unpacked system, of another processor under qemu's user-mode emulation:

    mmdebstrap --arch=arm64 --variant=extract \\
        --include=python3,libpython3-stdlib,libstdc++6,libgcc-s1,libc6 bookworm bookworm-arm64
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from release.build import CROSS, ROOT, audited, build_sdist, build_wheel
from release.trials import try_base, try_interpreter, try_root

OUT = ROOT / "dist" / "release"
WORK = ROOT / "build" / "release"


def main() -> None:
    """Build, audit, try, and print one row for each trial."""
    parser = argparse.ArgumentParser(prog="python -m release")
    parser.add_argument("--python", action="append", default=[], help="interpreter to try")
    parser.add_argument("--root", action="append", default=[], help="PROCESSOR=FOLDER to try")
    chosen = parser.parse_args()
    for folder in (OUT, WORK):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    sdist = build_sdist(OUT)
    wheels = {machine: build_wheel(sdist, machine, OUT) for machine in CROSS}
    for wheel in wheels.values():
        tag = audited(wheel) if wheel.has_kernels else "no kernels inside"
        print(f"{wheel.machine}: {wheel.path.name}, {tag}", flush=True)
    print("| installed | where | answer |\n| --- | --- | --- |", flush=True)
    said = set()
    native = wheels["x86_64"].path
    trials = [lambda p=p: try_interpreter(p, native, WORK) for p in chosen.python]
    if chosen.python:
        last = chosen.python[-1]
        trials += [
            lambda: try_base(last, native, WORK),
            lambda: try_interpreter(last, sdist, WORK),
        ]
    for root in chosen.root:
        machine, _, folder = root.partition("=")
        file = wheels[machine].path
        trials.append(lambda m=machine, f=folder, w=file: try_root(Path(f), m, w, WORK))
    for trial in trials:
        done = trial()
        said.add(done.said)
        print(done.line(), flush=True)
    if len(said) > 1:
        raise SystemExit(f"the trials do not say the same: {sorted(said)}")


if __name__ == "__main__":
    main()
