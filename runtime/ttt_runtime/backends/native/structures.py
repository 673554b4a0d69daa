"""The structures that the kernels take, as ctypes mirrors them. Fields: see the C sources."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_double, c_float, c_int64, c_void_p
from typing import Any, Final

from numpy.typing import NDArray


def address(array: NDArray[Any]) -> int:
    """Return where an array lies; it must be contiguous."""
    assert array.flags.c_contiguous
    return int(array.ctypes.data)


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
    """`ttt_layer` of forward.h."""

    _fields_ = (
        ("qkv", Matrix),
        ("out", Matrix),
        ("gate_up", Matrix),
        ("down", Matrix),
        ("attention_norm", c_void_p),
        ("mlp_norm", c_void_p),
    )


class Table(Structure):
    """`ttt_table` of embed.h: the embedding table."""

    _fields_ = (("rows", c_int64), ("codes", c_void_p), ("scales", c_void_p))


class Model(Structure):
    """`ttt_model` of forward.h."""

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
    """`ttt_call` of embed.h: one forward."""

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


class TopKFinder(Structure):
    """`ttt_top_k` of top_k.h: logits in parts, and what is to be found of them."""

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


# In the order of `ttt_structure_sizes` of decoder.c, which tells the sizes that C has.
MIRRORED: Final = (Matrix, Stored, Layer, Table, Model, Call, TopKFinder, Head)
