"""The compiled kernels: which of them this machine can run, and where they lie.

`decoder.c` and its headers are compiled when the package is installed (`hatch_build.py`), once for
every kind of CPU that they know. A machine without a compiler, or a CPU of another kind, has none
of them; :func:`missing` then says why, and onnxruntime runs the graphs.
"""

from __future__ import annotations

import ctypes
import os
import platform
from ctypes import POINTER, c_char_p, c_int, c_int64, c_void_p, sizeof
from functools import cache
from pathlib import Path
from typing import Any, Final

from ttt_ref.errors import DeviceError
from ttt_runtime.backends.native.compiler import COMPILED, SOURCES, sources_hash
from ttt_runtime.backends.native.structures import (
    MIRRORED,
    Call,
    Head,
    Matrix,
    Model,
    Stored,
    TopKFinder,
)

# Another folder is for tests of libraries that were compiled in another way (sanitizers).
FOLDER: Final = Path(os.environ.get("TTT_KERNELS_FOLDER") or COMPILED)
CPUINFO: Final = Path("/proc/cpuinfo")

# Variant -> the CPU's flags that it needs, as Linux names them; the fastest first.
VARIANTS: Final = {
    "avx512vnni": ("avx512f", "avx512bw", "avx512vl", "avx512_vnni", "fma"),
    "avxvnni": ("avx2", "fma", "avx_vnni"),
    "avx2": ("avx2", "fma"),
    "neon_i8mm": ("asimd", "asimddp", "i8mm"),
    "neon_dotprod": ("asimd", "asimddp"),
    "neon": ("asimd",),
}
# Arm: type of an entry of the auxiliary vector (AT_HWCAP, AT_HWCAP2) -> bit -> feature. A text file
# may be another machine's (emulation, containers); these come from the kernel that runs us.
_HWCAPS: Final = {16: {1: "asimd", 20: "asimddp"}, 26: {13: "i8mm"}}


@cache
def cpu_flags() -> frozenset[str]:
    """Return the features of this machine's CPU, as Linux names them; nothing elsewhere."""
    if platform.machine() == "aarch64":
        return _arm_features()
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def _arm_features() -> frozenset[str]:
    try:
        getauxval = ctypes.CDLL(None).getauxval
    except (OSError, AttributeError):
        return frozenset()
    getauxval.argtypes, getauxval.restype = (ctypes.c_ulong,), ctypes.c_ulong
    return frozenset(
        name
        for kind, bits in _HWCAPS.items()
        for bit, name in bits.items()
        if getauxval(kind) >> bit & 1
    )


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
    _check(library, file)
    library.ttt_new.argtypes, library.ttt_new.restype = (c_int, c_int), c_void_p
    library.ttt_free.argtypes, library.ttt_free.restype = (c_void_p,), None
    library.ttt_limit.argtypes, library.ttt_limit.restype = (c_void_p, c_int), None
    library.ttt_members.argtypes, library.ttt_members.restype = (c_void_p,), c_int
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
    library.ttt_find_top_k.argtypes = (c_void_p, POINTER(TopKFinder))
    library.ttt_find_top_k.restype = c_int
    library.ttt_forward.argtypes = (c_void_p, POINTER(Model), POINTER(Call))
    library.ttt_forward.restype = c_int
    return library


def _check(library: Any, file: Path) -> None:
    """Refuse a library of other sources than those that lie here, or of other structures."""
    again = "run: python -m ttt_runtime.backends.native.compiler (or install ttt-edge again)"
    names = ("ttt_sources", "ttt_structure_sizes")
    if not all(hasattr(library, name) for name in names):
        raise DeviceError(f"the kernels {file.name} were compiled from other sources; {again}")
    library.ttt_sources.argtypes, library.ttt_sources.restype = (), c_char_p
    library.ttt_structure_sizes.argtypes = ()
    library.ttt_structure_sizes.restype = POINTER(c_int64)
    compiled, here = library.ttt_sources().decode(), sources_hash()
    if SOURCES.is_dir() and compiled != here:
        raise DeviceError(
            f"the kernels {file.name} were compiled from sources {compiled}, those of this "
            f"installation are {here}; {again}"
        )
    sizes = library.ttt_structure_sizes()
    for number, mirror in enumerate(MIRRORED):
        if sizes[number] != sizeof(mirror):
            raise DeviceError(
                f"the kernels {file.name} take a {mirror.__name__} of {sizes[number]} bytes, "
                f"Python gives {sizeof(mirror)}; {again}"
            )
    if sizes[len(MIRRORED)] != 0:
        raise DeviceError(f"the kernels {file.name} know more structures than Python; {again}")
