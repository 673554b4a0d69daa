"""Install finished files into empty environments and let each answer a spoken question."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from release.build import ROOT, run

QUESTION: Final = ROOT / "samples" / "question.wav"
# onnxruntime looks up the processor there; an emulator shows it the host's.
_CPUINFO: Final = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

"""
_PLATFORMS: Final = ("manylinux_2_17", "manylinux_2_27", "manylinux_2_28", "manylinux_2_34")


@dataclass(frozen=True)
class Trial:
    """One installation: what was installed where, and the text of the answer."""

    what: str
    where: str
    said: str

    def line(self) -> str:
        """Return one row for people."""
        return f"| {self.what} | {self.where} | {self.said} |"


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
    output = run([*command, "answer", str(QUESTION), "-o", str(out), "--json"], **more)
    said = str(json.loads(output)["text"]).strip()
    if not said or out.stat().st_size < 10_000:
        raise SystemExit(f"{command[0]} answered {said!r} in {out.stat().st_size} bytes of sound")
    return said


def try_interpreter(interpreter: str, file: Path, folder: Path) -> Trial:
    """Install into an empty environment of an interpreter, no compiler in sight, and ask."""
    home = folder / f"{Path(interpreter).name}-{'sdist' if file.suffix == '.gz' else 'wheel'}"
    shutil.rmtree(home, ignore_errors=True)
    run([interpreter, "-m", "venv", str(home)])
    path = without_compilers(folder)
    run([str(home / "bin/pip"), "install", "--quiet", f"{file}[cpu]"], PATH=path)
    version = run(
        [str(home / "bin/python"), "-c", "import platform as p; print(p.python_version())"]
    )
    said = answer(
        [str(home / "bin/ttt-assistant")], folder / "answer.wav", PATH=path, PYTHONPATH=""
    )
    return Trial(file.name, f"Python {version.strip()}, no compiler", said)


def try_base(interpreter: str, file: Path, folder: Path) -> Trial:
    """Install without an extra, read what is missing, do what the message says, and ask."""
    home = folder / "base"
    shutil.rmtree(home, ignore_errors=True)
    run([interpreter, "-m", "venv", str(home)])
    path = without_compilers(folder)
    run([str(home / "bin/pip"), "install", "--quiet", str(file)], PATH=path)
    command = [str(home / "bin/ttt-assistant"), "answer", str(QUESTION), "-o", os.devnull]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 2 or "pip install 'ttt-edge[cpu]'" not in done.stderr:
        raise SystemExit(f"without an engine: {done.returncode}, {done.stderr}")
    # The package is there already, so this brings the engine and asks no index for ttt-edge.
    run([str(home / "bin/pip"), "install", "--quiet", "ttt-edge[cpu]"], PATH=path)
    said = answer(
        [str(home / "bin/ttt-assistant")], folder / "answer.wav", PATH=path, PYTHONPATH=""
    )
    return Trial(file.name, "base install, then the extra that the message names", said)


def try_root(root: Path, machine: str, file: Path, folder: Path) -> Trial:
    """Install for the Python of another system's root, and ask it, emulated where need be.

    Args:
        root: an unpacked Debian or Ubuntu with Python (`mmdebstrap --variant=extract`).
        machine: its processor.
        file: the wheel.
        folder: where to work.
    """
    python = next(p for p in (root / "usr/bin").glob("python3.*") if p.name[8:].isdigit())
    minor = python.name.rpartition(".")[2]
    site = folder / f"{root.name}-site"
    shutil.rmtree(site, ignore_errors=True)
    tags = [f"--platform={name}_{machine}" for name in (*_PLATFORMS, "manylinux2014")]
    kinds = [f"--abi=cp3{minor}", "--abi=abi3", "--abi=none", "--implementation=cp"]
    wanted = [f"--python-version=3.{minor}", "--only-binary=:all:", "--quiet"]
    pip = [sys.executable, "-m", "pip", "install", "--target", str(site)]
    run([*pip, *tags, *kinds, *wanted, f"{file}[cpu]"])
    libraries = f"{root}/usr/lib/{machine}-linux-gnu:{root}/lib/{machine}-linux-gnu"
    settings = {"PYTHONPATH": str(site), "PYTHONHOME": str(root / "usr"), "HOME": str(folder)}
    if machine == os.uname().machine:
        loader = next((root / "lib64").glob("ld-linux-*"))
        start = [str(loader), "--library-path", libraries, str(python)]
        where = f"Python 3.{minor} of {root.name}"
    else:
        (root / "proc").mkdir(exist_ok=True)
        (root / "proc/cpuinfo").write_text(_CPUINFO)
        emulator = f"qemu-{machine}-static"
        start = [emulator, "-cpu", "cortex-a76", "-L", str(root), str(python)]
        where = f"Python 3.{minor} of {root.name}, emulated Cortex-A76"
        settings["QEMU_SET_ENV"] = f"LD_LIBRARY_PATH={libraries}"
    said = answer([*start, "-m", "ttt_runtime.cli.assistant"], folder / "answer.wav", **settings)
    return Trial(file.name, where, said)
