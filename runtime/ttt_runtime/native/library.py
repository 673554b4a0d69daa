"""The compiled kernels: found, loaded, and mirrored as ctypes structures.

`decoder.c` and its headers are compiled when the package is installed (`hatch_build.py`), once for
every kind of CPU that they know. A machine without a compiler, or a CPU of another kind, has none
of them; :func:`missing` then says why, and onnxruntime runs the graphs.
"""

from __future__ import annotations

import ctypes
import weakref
from ctypes import POINTER, Structure, c_double, c_float, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from ttt_ref.errors import DeviceError, TttError

FOLDER: Final = Path(__file__).parent
CPUINFO: Final = Path("/proc/cpuinfo")
INTERFACE: Final = 2  # of decoder.c, as these structures mirror it

# Library -> the CPU's flags that it needs, as Linux names them; the fastest first.
VARIANTS: Final = {
    "avx512vnni": ("avx512f", "avx512bw", "avx512vl", "avx512_vnni", "fma"),
    "avxvnni": ("avx2", "fma", "avx_vnni"),
    "avx2": ("avx2", "fma"),
}


class Matrix(Structure):
    """`ttt_matrix` of product.h: one stored matrix W [inputs, outputs]."""

    _fields_ = (
        ("panels", c_void_p),
        ("bias", c_void_p),
        ("inputs", c_int64),
        ("outputs", c_int64),
        ("bits", c_int64),
        ("block", c_int64),
        ("has_zeros", c_int64),
        ("gated", c_int64),
    )


class Stored(Structure):
    """`ttt_stored` of pack.h: where a graph keeps a matrix."""

    _fields_ = (
        ("codes", c_void_p),
        ("scales", c_void_p),
        ("zeros", c_void_p),
        ("by_rows", c_int64),
    )


class Layer(Structure):
    """`ttt_layer` of decoder.c."""

    _fields_ = (
        ("qkv", Matrix),
        ("out", Matrix),
        ("gate_up", Matrix),
        ("down", Matrix),
        ("attention_norm", c_void_p),
        ("mlp_norm", c_void_p),
    )


class Table(Structure):
    """`ttt_table` of inputs.h: the embedding table."""

    _fields_ = (("rows", c_int64), ("codes", c_void_p), ("scales", c_void_p))


class Model(Structure):
    """`ttt_model` of decoder.c."""

    _fields_ = (
        ("layers", c_int64),
        ("hidden", c_int64),
        ("heads", c_int64),
        ("kv_heads", c_int64),
        ("head_dim", c_int64),
        ("intermediate", c_int64),
        ("layer", POINTER(Layer)),
        ("norm", c_void_p),
        ("epsilon", c_double),
        ("positions", c_int64),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("table", Table),
    )


class Call(Structure):
    """`ttt_call` of inputs.h: one forward."""

    _fields_ = (
        ("rows", c_int64),
        ("start", c_int64),
        ("capacity", c_int64),
        ("audio_start", c_int64),
        ("ids", c_void_p),
        ("positions", c_void_p),
        ("embeds", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("hidden", c_void_p),
    )


class Survey(Structure):
    """`ttt_survey` of survey.h: logits in parts, and what is to be found of them."""

    _fields_ = (
        ("parts", c_void_p * 2),
        ("widths", c_int64 * 2),
        ("count", c_int64),
        ("per_unit", c_float),
        ("ids", c_void_p),
        ("values", c_void_p),
        ("sum", c_void_p),
    )


class Head(Structure):
    """`ttt_head` of head.h: one head and some hidden rows."""

    _fields_ = (
        ("matrix", POINTER(Matrix)),
        ("rows", c_int64),
        ("forbidden", c_int64),
        ("forbidden_logit", c_float),
        ("x", c_void_p),
        ("logits", c_void_p),
        ("columns", c_void_p),
        ("best", c_void_p),
        ("sums", c_void_p),
    )


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
    return FOLDER / f"_decoder_{variant}.so"


def _suited() -> str | None:
    """Return the fastest variant for this CPU that was compiled; else the fastest for it."""
    flags = cpu_flags()
    suited = [v for v, needs in VARIANTS.items() if flags.issuperset(needs)]
    return next((v for v in suited if library_file(v).is_file()), next(iter(suited), None))


def missing() -> str | None:
    """Tell why there are no kernels for this machine; None if there are."""
    variant = _suited()
    if variant is None:
        return f"this CPU has none of {', '.join(VARIANTS)}"
    if not library_file(variant).is_file():
        return (
            "the kernels were not compiled when ttt-edge was installed; install a C compiler "
            "(Debian: apt install gcc) and ttt-edge again"
        )
    try:
        _library()
    except DeviceError as error:
        return str(error)
    return None


@cache
def _library() -> Any:
    variant = _suited()
    assert variant is not None
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
    library.ttt_look.argtypes = (c_void_p, POINTER(Survey))
    library.ttt_look.restype = c_int
    library.ttt_forward.argtypes = (c_void_p, POINTER(Model), POINTER(Call))
    library.ttt_forward.restype = c_int
    return library


def variant_name() -> str:
    """Return the name of the variant that this machine runs; see :func:`missing`."""
    return _suited() or "none"


def lanes() -> int:
    """Return how many floats a vector has; sizes that the kernels walk must be multiples of it."""
    return int(_library().ttt_lanes())


def scored() -> int:
    """Return how many rows of the cache are scored at once; buffers are filled up to it."""
    return int(_library().ttt_scored())


def address(array: NDArray[Any]) -> int:
    """Return where an array lies; it must be contiguous."""
    assert array.flags.c_contiguous
    return int(array.ctypes.data)


class Kernels:
    """The kernels with a team of threads. One caller at a time.

    Args:
        threads: size of the team; the calling thread is one of it.

    Raises:
        DeviceError: there are no kernels for this machine, or no threads to be had.
    """

    def __init__(self, threads: int) -> None:
        reason = missing()
        if reason is not None:
            raise DeviceError(f"native kernels: {reason}")
        self._library = _library()
        self._handle = self._library.ttt_new(threads)
        if not self._handle:
            raise DeviceError(f"native kernels: the system refused {threads} threads")
        self._free = weakref.finalize(self, self._library.ttt_free, self._handle)
        self.threads = threads

    def packed_bytes(self, matrix: Matrix) -> int:
        """Return the bytes that a matrix takes in panels."""
        return int(self._library.ttt_packed_bytes(matrix))

    def pack(self, matrix: Matrix, stored: Stored, to: int) -> None:
        """Write a stored matrix in panels to the address `to`."""
        self._library.ttt_pack(self._handle, matrix, stored, to)

    def choose(self, head: Head) -> None:
        """Write logits, and each row's best and its column; TttError without memory."""
        _check(self._library.ttt_choose(self._handle, head))

    def sum_up(self, head: Head) -> None:
        """Write the sums of exp(logit - best) over the logits that `choose` left."""
        self._library.ttt_sum_up(self._handle, head)

    def look(self, survey: Survey) -> None:
        """Go over logits; TttError without memory."""
        _check(self._library.ttt_look(self._handle, survey))

    def forward(self, model: Model, call: Call) -> None:
        """Run the decoder; TttError without memory, or for rows that cannot be."""
        _check(self._library.ttt_forward(self._handle, model, call))


def _check(status: int) -> None:
    if status == -1:
        raise TttError("native kernels: no memory for this work")
    if status != 0:
        raise TttError("native kernels: an id, a row or a position that does not exist")
