"""Unpacked Debian systems, most of another processor, whose Python runs a program here.

Nothing in them is configured or installed by their own tools: `mmdebstrap` unpacks packages, pip of
the machine at hand fills a folder beside them, and qemu's user-mode emulation runs another
processor's Python. Emulation proves results, never speed. For this machine's processor see
`interpreters`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Minor version of Python -> the Debian that has it.
SUITES: Final[Mapping[int, str]] = {11: "bookworm", 13: "trixie", 14: "forky"}
# As Debian names the processors.
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_PACKAGES: Final = "python3,libpython3-stdlib,libstdc++6,libgcc-s1,libc6"
# A mirror's copy of a Debian that is not released yet may be older than it says it should be.
_UNPACK: Final = ("mmdebstrap", "--aptopt=Acquire::Check-Valid-Until 0", "--variant=extract")
_PLATFORMS: Final = ("manylinux_2_17", "manylinux_2_27", "manylinux_2_28", "manylinux_2_34")
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


def pip_for(machine: str, minor: int, interpreter: str = sys.executable) -> list[str]:
    """Return pip's command up to `--target`, for a Python and processor that are not this one.

    Conditions on the version of Python are read for the `interpreter` that runs pip.
    """
    platforms = [f"--platform={name}_{machine}" for name in (*_PLATFORMS, "manylinux2014")]
    kinds = [f"--abi=cp3{minor}", "--abi=abi3", "--abi=none", "--implementation=cp"]
    wanted = [f"--python-version=3.{minor}", "--only-binary=:all:", "--quiet"]
    return [interpreter, "-m", "pip", "install", *platforms, *kinds, *wanted]


@dataclass(frozen=True)
class Root:
    """An unpacked system.

    Attributes:
        path: its folder.
        machine: its processor, as `platform.machine()` says it.
    """

    path: Path
    machine: str

    @property
    def python(self) -> Path:
        """The interpreter, named after its version."""
        names = (self.path / "usr/bin").glob("python3.*")
        return next(path for path in names if path.name[8:].isdigit())

    @property
    def minor(self) -> int:
        """Minor version of the interpreter."""
        return int(self.python.name.rpartition(".")[2])

    @property
    def libraries(self) -> str:
        """Where its shared libraries lie, as the loader wants it."""
        folder = f"{self.machine}-linux-gnu"
        return f"{self.path}/usr/lib/{folder}:{self.path}/lib/{folder}"

    def install(self, site: Path, requirements: Iterable[str]) -> None:
        """Fill a folder with packages for this Python, wheels only; RuntimeError if pip fails."""
        shutil.rmtree(site, ignore_errors=True)
        command = [*pip_for(self.machine, self.minor), "--target", str(site), *requirements]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")

    def command(self, cpu: str = "cortex-a76") -> list[str]:
        """Return what starts the interpreter, emulated as `cpu`."""
        (self.path / "proc").mkdir(exist_ok=True)
        (self.path / "proc/cpuinfo").write_text(_CPUINFO)
        start = [f"qemu-{self.machine}-static", "-cpu", cpu, "-L", str(self.path)]
        return [*start, "-E", f"LD_LIBRARY_PATH={self.libraries}", str(self.python)]

    def environment(self, *paths: Path) -> dict[str, str]:
        """Return the variables that lead the interpreter to its own modules and these folders."""
        return {"PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONHOME": f"{self.path}/usr"}


def unpack(suite: str, machine: str, folder: Path) -> Root:
    """Return a Debian of this name and processor, unpacked into `folder` unless it lies there.

    Raises:
        RuntimeError: it cannot be had.
    """
    path = folder / f"{suite}-{machine}"
    finished = path / "finished"
    if not finished.is_file():
        shutil.rmtree(path, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        kind = [f"--arch={_ARCHITECTURES[machine]}", f"--include={_PACKAGES}"]
        # One source line: a Debian to come has no security updates of its own.
        source = f"deb http://deb.debian.org/debian {suite} main"
        command = [*_UNPACK, *kind, suite, str(path), source]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise RuntimeError("mmdebstrap is not installed (Debian: mmdebstrap)") from None
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
        for name in ("bin", "lib", "lib64", "sbin"):  # younger Debians make these links later
            if not (path / name).exists() and (path / "usr" / name).is_dir():
                (path / name).symlink_to(f"usr/{name}")
        finished.touch()
    return Root(path.resolve(), machine)
