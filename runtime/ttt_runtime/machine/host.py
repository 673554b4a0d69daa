"""Processor, memory, disk and board, read from where Linux keeps them.

Every reader takes the root of the file system, so that tests can show it another machine.
"""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ttt_runtime.machine.cpus import usable_cpus

ROOT: Final = Path("/")

# Names as the kernel writes them -> the name that people know. Only what our kernels use.
_FEATURES: Final = {
    "avx2": "avx2",
    "avx512f": "avx512",
    "avx_vnni": "avx_vnni",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "amx_bf16": "amx_bf16",
    "amx_int8": "amx_int8",
    "asimd": "neon",
    "neon": "neon",
    "asimddp": "neon_dot",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
}


@dataclass(frozen=True)
class Cpu:
    """The processor; `threads` are those that this process may use."""

    name: str
    architecture: str
    threads: int
    features: tuple[str, ...]


@dataclass(frozen=True)
class Memory:
    """Memory in bytes; `available_bytes` is what can be taken without swapping."""

    total_bytes: int
    available_bytes: int
    swap_bytes: int


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def read_cpu(root: Path = ROOT) -> Cpu:
    """Return the processor of this machine."""
    fields: dict[str, str] = {}
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, separator, value = line.partition(":")
        if separator:
            fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags", fields.get("Features", "")).split()
    features = dict.fromkeys(_FEATURES[flag] for flag in flags if flag in _FEATURES)
    name = fields.get("model name") or fields.get("Hardware") or platform.processor() or "unknown"
    return Cpu(name, platform.machine(), usable_cpus(root), tuple(features))


def read_memory(root: Path = ROOT) -> Memory | None:
    """Return the memory of this machine, or None where the system does not say."""
    sizes: dict[str, int] = {}
    for line in _read(root / "proc/meminfo").splitlines():
        key, _, value = line.partition(":")
        words = value.split()
        if words and words[0].isdigit():
            sizes[key] = int(words[0]) * 1024
    if "MemTotal" not in sizes:
        return None
    available = sizes.get("MemAvailable", sizes.get("MemFree", 0))
    return Memory(sizes["MemTotal"], available, sizes.get("SwapTotal", 0))


def free_disk(path: Path) -> int | None:
    """Return the free bytes of the disk that holds `path` (or its nearest existing parent)."""
    for folder in (path, *path.absolute().parents):
        if folder.is_dir():
            return shutil.disk_usage(folder).free
    return None


def read_model(root: Path = ROOT) -> str:
    """Return the board's name as its device tree has it; empty where there is none."""
    return _read(root / "proc/device-tree/model").strip("\0\n ")


def read_jetson(root: Path = ROOT) -> str | None:
    """Return board and Jetson Linux release, or None on other machines."""
    model = read_model(root)
    first = _read(root / "etc/nv_tegra_release").partition("\n")[0]
    if not first:
        return model if "jetson" in model.lower() else None
    # "# R36 (release), REVISION: 4.3, GCID: ..., BOARD: generic, ..."
    words = first.lstrip("# ").split()
    major = words[0].lstrip("R") if words else "?"
    _, found, rest = first.partition("REVISION:")
    minor = rest.split(",")[0].strip() if found else "?"
    return f"{model or 'Jetson'}, Jetson Linux {major}.{minor}"
