"""Run the runtime's tests on other Pythons: ``python -m tests.pythons 3.10:1.20.1 3.14``.

Each argument is a version of Python, and an onnxruntime where another than the newest is wanted.
`release.interpreters` finds them. Each gets an environment of its own under build/pythons with what
`pip install ttt-edge[cpu,server,plot]` brings, and pytest; tests that need more are left out. First
bundles of basic operators are exported here, which every one of them must decode to the golden ids.
With `--if-there` a Python that cannot be had is named and passed over.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from release.interpreters import empty_environment, find_python
from tests.conftest import golden_folder

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "pythons"
BUNDLES = FOLDER / "basic-bundles"
EXTRAS = ("cpu", "server", "plot")
PATHS = os.pathsep.join(["export", "runtime", "quant", "."])
# xdist's options are not there, and the runtime must not warn on any version.
PYTEST = ["-m", "pytest", "-o", "addopts=-q --strict-markers --import-mode=importlib"]
PYTEST += ["-m", "not slow"]


def requirements(onnxruntime: str | None, extras: Sequence[str] = EXTRAS) -> list[str]:
    """Return what an environment gets: the package's own lists, pytest, an onnxruntime if named."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [line for name in extras for line in project["optional-dependencies"][name]]
    if onnxruntime is not None:
        lines.append(f"onnxruntime=={onnxruntime}")
        lines = [line for line in lines if not line.startswith("onnxruntime>")]
    return [*project["dependencies"], *lines, "pytest>=8,<10"]


def export_bundles() -> None:
    """Export every golden checkpoint in basic operators, each into a folder of its name."""
    BUNDLES.mkdir(parents=True, exist_ok=True)
    for checkpoint in (golden_folder() / "checkpoints").iterdir():
        command = [sys.executable, "-m", "ttt_export.cli", "-m", str(checkpoint), "--force"]
        out = BUNDLES / checkpoint.name
        subprocess.run([*command, "-p", "fp32", "--form", "basic", str(out)], check=True)


def run_tests(interpreter: str, name: str, onnxruntime: str | None) -> int:
    """Make the environment of an interpreter and run the tests; returns their exit status."""
    folder = FOLDER / name.replace(":", "-")
    python, finished = folder / "bin" / "python", folder / "finished"
    wanted = requirements(onnxruntime)
    if not finished.is_file() or finished.read_text(encoding="utf-8") != "\n".join(wanted):
        empty_environment(interpreter, folder)
        install = [str(python), "-m", "pip", "install", "--quiet", *wanted]
        subprocess.run(install, check=True)
        finished.write_text("\n".join(wanted), encoding="utf-8")
    shown = "import platform, onnxruntime; print(platform.python_version(), "
    shown += "'with onnxruntime', onnxruntime.__version__, flush=True)"
    subprocess.run([str(python), "-c", shown], check=True)
    done = subprocess.run([str(python), *PYTEST, "tests/runtime"], check=False)
    return done.returncode


def main(arguments: list[str]) -> int:
    """Run all; the exit status is that of the worst."""
    os.chdir(ROOT)
    os.environ.update(PYTHONPATH=PATHS, TTT_BASIC_BUNDLES=str(BUNDLES), OMP_NUM_THREADS="1")
    export_bundles()
    worst = 0
    for argument in arguments:
        if argument == "--if-there":
            continue
        version, _, onnxruntime = argument.partition(":")
        interpreter = find_python(int(version.removeprefix("3.")))
        if interpreter is None:
            print(f"Python {version}: cannot be had here", flush=True)
            worst = worst if "--if-there" in arguments else 1
            continue
        worst = max(worst, run_tests(interpreter, argument, onnxruntime or None))
    return worst


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
