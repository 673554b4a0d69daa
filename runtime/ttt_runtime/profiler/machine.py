"""The machine that was measured on, and this process's memory."""

from __future__ import annotations

import os
import platform
import resource
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from ttt_runtime.machine.gpu import probe_gpus

# What makes a difference to the figures, where it is installed.
PACKAGES: Final = (
    "ttt-edge",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "numpy",
)


def resident_bytes() -> int:
    """Return the resident memory of this process (0 where /proc does not tell)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * resource.getpagesize()


def peak_bytes() -> int:
    """Return the most memory that was ever resident in this process."""
    # The kernel's two counters differ by some pages.
    return max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, resident_bytes())


def describe_machine(threads: int) -> dict[str, Any]:
    """Return what a reader must know to compare figures."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    machine: dict[str, Any] = {
        "cpu": model,
        "cpus": os.cpu_count(),
        "threads": threads,
        "load_average": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": packages,
    }
    gpus = probe_gpus()
    if gpus.gpus:
        machine["gpus"] = [f"{gpu.name}, {gpu.architecture}" for gpu in gpus.gpus]
        machine["driver"] = f"{gpus.driver or 'unknown'}, CUDA {gpus.cuda or 'unknown'}"
    return machine
