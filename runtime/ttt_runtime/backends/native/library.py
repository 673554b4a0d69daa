"""The compiled kernels: which of them this machine can run, and where they lie.

`decoder.c` and its headers are compiled when the package is installed (`hatch_build.py`), once for
every kind of CPU that they know. A machine without a compiler, or a CPU of another kind, has none
of them; :func:`missing` then says why, and onnxruntime runs the graphs.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, Final

from ttt_ref.errors import DeviceError
from ttt_runtime.backends.native.structures import Call, Head, Matrix, Model, Stored, TopKFinder

# Not beside the modules: Python would take the libraries for extension modules.
FOLDER: Final = Path(__file__).parent / "compiled"
CPUINFO: Final = Path("/proc/cpuinfo")
INTERFACE: Final = 2  # of decoder.c, as `structures` mirrors it

# Variant -> the CPU's flags that it needs, as Linux names them; the fastest first.
VARIANTS: Final = {
    "avx512vnni": ("avx512f", "avx512bw", "avx512vl", "avx512_vnni", "fma"),
    "avxvnni": ("avx2", "fma", "avx_vnni"),
    "avx2": ("avx2", "fma"),
}


@cache
def cpu_flags() -> frozenset[str]:
    """Return the features of this machine's CPU, as Linux names them; nothing elsewhere."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def library_file(variant: str) -> Path:
    """Return where the library of a variant lies once it is built."""
    return FOLDER / f"decoder_{variant}.so"


def suited() -> list[str]:
    """Return the variants that this CPU can run, the fastest first."""
    flags = cpu_flags()
    return [name for name, needs in VARIANTS.items() if flags.issuperset(needs)]


def best_variant() -> str:
    """Return the fastest variant that this machine can run; DeviceError says why there is none."""
    names = suited()
    if not names:
        raise DeviceError(f"this CPU has none of {', '.join(VARIANTS)}")
    compiled = [name for name in names if library_file(name).is_file()]
    if not compiled:
        raise DeviceError(
            "the kernels were not compiled when ttt-edge was installed; install a C compiler "
            "(Debian: apt install gcc) and ttt-edge again"
        )
    return compiled[0]


def missing() -> str | None:
    """Tell why there are no kernels for this machine; None if there are."""
    try:
        load(best_variant())
    except DeviceError as error:
        return str(error)
    return None


@cache
def load(variant: str) -> Any:
    """Return the library of a variant; DeviceError if it is not there or not of these sources."""
    file = library_file(variant)
    try:
        library = ctypes.CDLL(str(file))
    except OSError as error:
        raise DeviceError(
            f"the kernels {file.name} cannot be loaded ({error}); install ttt-edge again"
        ) from None
    if not hasattr(library, "ttt_interface") or library.ttt_interface() != INTERFACE:
        raise DeviceError(
            f"the kernels {file.name} were compiled from other sources; install ttt-edge again"
        )
    library.ttt_new.argtypes, library.ttt_new.restype = (c_int,), c_void_p
    library.ttt_free.argtypes, library.ttt_free.restype = (c_void_p,), None
    library.ttt_lanes.argtypes, library.ttt_lanes.restype = (), c_int
    library.ttt_scored.argtypes, library.ttt_scored.restype = (), c_int
    library.ttt_packed_bytes.argtypes = (POINTER(Matrix),)
    library.ttt_packed_bytes.restype = c_int64
    library.ttt_pack.argtypes = (c_void_p, POINTER(Matrix), POINTER(Stored), c_void_p)
    library.ttt_pack.restype = None
    library.ttt_choose.argtypes = (c_void_p, POINTER(Head))
    library.ttt_choose.restype = c_int
    library.ttt_sum_up.argtypes = (c_void_p, POINTER(Head))
    library.ttt_sum_up.restype = None
    library.ttt_look.argtypes = (c_void_p, POINTER(TopKFinder))
    library.ttt_look.restype = c_int
    library.ttt_forward.argtypes = (c_void_p, POINTER(Model), POINTER(Call))
    library.ttt_forward.restype = c_int
    return library
