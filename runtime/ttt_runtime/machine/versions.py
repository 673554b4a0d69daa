"""Which CUDA a library was built for, against the one that the driver offers."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable
from importlib.metadata import distributions
from typing import Any, Final

from ttt_runtime.machine.gpu import Gpu, GpuReport

Version = tuple[int, ...]

_TENSORRT: Final = {
    "tensorrt": re.compile(r"tensorrt[-_]cu(\d+)(?:[-_](?:libs|bindings))?"),
    "rtx": re.compile(r"tensorrt[-_]rtx[-_]cu(\d+)(?:[-_](?:libs|bindings))?"),
}
# The oldest architecture with products in a type: before it kernels are missing or emulated.
_PRODUCTS: Final = {
    "fp8": (8, 9),
    "bf16": (8, 0),
    "fp16": (5, 3),
    "int8": (5, 3),
    "int4": (5, 3),
}


def installed_names() -> list[str]:
    """Return the names of all installed packages."""
    return [str(found.metadata["Name"]) for found in distributions()]


def library_cuda(
    engine: str,
    names: Callable[[], Iterable[str]] = installed_names,
    import_module: Callable[[str], Any] = importlib.import_module,
) -> str | None:
    """Return the CUDA version that an engine's library was built for; None if it does not say.

    TensorRT's wheels say it in their name; JetPack's package says nothing, and fits its driver.
    """
    if engine == "cuda":
        try:
            info = import_module("onnxruntime.capi.build_and_package_info")
        except ImportError:
            return None
        return str(getattr(info, "cuda_version", "")) or None
    if engine not in _TENSORRT:
        return None
    majors = [m[1] for name in names() if (m := _TENSORRT[engine].fullmatch(name)) is not None]
    return max(majors, key=int, default=None)


def cuda_mismatch(built_for: str | None, gpus: GpuReport) -> str | None:
    """Return why a library's CUDA and the driver's do not go together; None if they may.

    A driver runs everything built for its own major version of CUDA and for older ones.
    """
    if built_for is None or gpus.cuda is None:
        return None
    if version_tuple(gpus.cuda)[:1] >= version_tuple(built_for)[:1]:
        return None
    major = built_for.partition(".")[0]
    return (
        f"it was built for CUDA {built_for}, driver {gpus.driver or 'here'} offers CUDA "
        f"{gpus.cuda}; install a driver with CUDA {major}"
    )


def precision_mismatch(precision: str, gpu: Gpu) -> str | None:
    """Return why a GPU cannot multiply in a precision; None if it can, or does not say."""
    least = _PRODUCTS.get(precision)
    if least is None or gpu.compute_capability is None or gpu.compute_capability >= least:
        return None
    return (
        f"{precision} needs sm_{least[0]}{least[1]} or later, {gpu.name} is {gpu.architecture}; "
        "export with -p fp16"
    )


def version_tuple(text: str) -> Version:
    """Return the leading numbers of a version: `10.15.1.29` -> (10, 15, 1, 29)."""
    parts = []
    for part in text.split("."):
        if not part.isdigit():
            break
        parts.append(int(part))
    return tuple(parts)
