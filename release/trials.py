"""Install finished files into empty environments and let each answer a spoken question."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from release.build import ROOT, run
from release.interpreters import empty_environment
from release.roots import Root, pip_for

QUESTION: Final = ROOT / "samples" / "question.wav"


@dataclass(frozen=True)
class Trial:
    """One installation: what was installed where, and the text of the answer; "" if none."""

    what: str
    where: str
    said: str

    def line(self) -> str:
        """Return one row for people."""
        return f"| {self.what} | {self.where} | {self.said or 'not asked'} |"


def without_compilers(folder: Path) -> str:
    """Return a PATH that leads to no compiler: the tools that pip and Python may want, linked."""
    tools = folder / "tools"
    tools.mkdir(parents=True, exist_ok=True)
    for name in ("sh", "env", "uname", "ldd", "cat"):
        link, found = tools / name, shutil.which(name)
        if found and not link.exists():
            link.symlink_to(found)
    return str(tools)


def answer(command: list[str], out: Path, **more: str) -> str:
    """Answer the sample question; returns the text, SystemExit if there is no sound or no text."""
    out.unlink(missing_ok=True)
    output = run([*command, "answer", str(QUESTION), "-o", str(out), "--json"], **more)
    said = str(json.loads(output)["text"]).strip()
    if not said or out.stat().st_size < 10_000:
        raise SystemExit(f"{command[0]} answered {said!r} in {out.stat().st_size} bytes of sound")
    return said


def try_interpreter(
    interpreter: str, file: Path, folder: Path, *, native: bool, compiler: bool = False
) -> Trial:
    """Install into an empty environment of an interpreter and ask.

    Args:
        interpreter: a Python of this machine.
        file: wheel or source archive.
        folder: where to work.
        native: our kernels must be what decodes; otherwise they must not.
        compiler: one may be used; otherwise none is in sight.
    """
    kind = "sdist" if file.suffix == ".gz" else "wheel"
    home = empty_environment(
        interpreter, folder / f"{Path(interpreter).name}-{kind}-{'cc' if compiler else 'no-cc'}"
    )
    path = os.environ["PATH"] if compiler else without_compilers(folder)
    run([str(home / "pip"), "install", "--quiet", f"{file}[cpu]"], PATH=path)
    asked = "import platform as p; from ttt_runtime.backends.native.library import missing; "
    asked += "print(p.python_version(), 'no' if missing() else 'yes')"
    outside = {"PATH": path, "PYTHONPATH": ""}
    version, _, has_kernels = run([str(home / "python"), "-c", asked], **outside).partition(" ")
    if (has_kernels.strip() == "yes") != native:
        raise SystemExit(f"{file.name} on {version}: kernels there: {has_kernels}")
    said = answer([str(home / "ttt-assistant")], folder / "answer.wav", **outside)
    where = f"Python {version}, {'' if compiler else 'no '}compiler"
    return Trial(file.name, f"{where}, {'our kernels' if native else 'onnxruntime'}", said)


def extra_named(message: str) -> str | None:
    """Return what a refusal says to install, None if it names no extra."""
    found = re.search(r"pip install '([^']+\[cpu\])'", message)
    return None if found is None else found[1]


def try_base(interpreter: str, file: Path, folder: Path) -> Trial:
    """Install without an extra, read what is missing, do what the message says, and ask."""
    home = empty_environment(interpreter, folder / "base")
    path = without_compilers(folder)
    outside = {"PATH": path, "PYTHONPATH": ""}
    run([str(home / "pip"), "install", "--quiet", str(file)], PATH=path)
    command = [str(home / "ttt-assistant"), "answer", str(QUESTION), "-o", os.devnull]
    done = subprocess.run(
        command, env={**os.environ, **outside}, capture_output=True, text=True, check=False
    )
    named = extra_named(done.stderr)
    if done.returncode != 2 or named is None:
        raise SystemExit(f"without an engine: {done.returncode}, {done.stderr}")
    run([str(home / "pip"), "install", "--quiet", named], PATH=path)
    said = answer([str(home / "ttt-assistant")], folder / "answer.wav", **outside)
    return Trial(file.name, "base install, then the extra that the message names", said)


def try_root(root: Root, file: Path, folder: Path) -> Trial:
    """Install for the Python of another processor's system, and ask it under emulation."""
    site = folder / f"{root.path.name}-site"
    root.install(site, [f"{file}[cpu]"])
    settings = {**root.environment(site), "HOME": str(folder)}
    command = [*root.command(), "-m", "ttt_runtime"]
    said = answer(command, folder / "answer.wav", **settings)
    where = f"Python 3.{root.minor} of {root.path.name}, emulated Cortex-A76"
    return Trial(file.name, where, said)


def resolve(interpreter: str, machine: str, minor: int, file: Path, folder: Path) -> Trial:
    """Hold a wheel and all that it needs to a Python that is not here: each has a wheel for it."""
    pip = pip_for(machine, minor, interpreter)
    run([*pip, "--dry-run", "--target", str(folder / "none"), f"{file}[cpu]"])
    return Trial(file.name, f"Python 3.{minor}, {machine}: pip finds a wheel of all it needs", "")
