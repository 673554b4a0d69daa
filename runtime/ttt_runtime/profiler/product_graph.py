"""The smallest graph that multiplies: bytes of an ONNX file with one matrix product.

Written by hand, because the device install has no `onnx`. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

FLOAT32: Final = np.dtype(np.float32)
INT8: Final = np.dtype(np.int8)
# Element types as onnx.proto numbers them.
_TYPES: Final = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6}
_IR_VERSION: Final = 10
_OPSET: Final = 17


def product_graph(rows: int, weights: NDArray[Any]) -> bytes:
    """Return a model that multiplies `x` [rows, K] by weights [K, N] into `y` [rows, N].

    Args:
        rows: rows of the input.
        weights: float32 (x and y float32: MatMul) or int8 (x uint8, y int32: MatMulInteger).
    """
    whole = weights.dtype == INT8
    x, y = ("uint8", "int32") if whole else ("float32", "float32")
    inner, columns = weights.shape
    node = b"".join(
        [
            *(_text(1, name) for name in ("x", "w")),
            _text(2, "y"),
            _text(4, "MatMulInteger" if whole else "MatMul"),
        ]
    )
    stored = b"".join(
        [
            *(_number(1, dim) for dim in weights.shape),
            _number(2, _TYPES[weights.dtype.name]),
            _text(8, "w"),
            _bytes(9, weights.tobytes()),
        ]
    )
    graph = b"".join(
        [
            _bytes(1, node),
            _text(2, "product"),
            _bytes(5, stored),
            _bytes(11, _value("x", x, (rows, inner))),
            _bytes(12, _value("y", y, (rows, columns))),
        ]
    )
    opset = _text(1, "") + _number(2, _OPSET)
    return _number(1, _IR_VERSION) + _bytes(7, graph) + _bytes(8, opset)


def _value(name: str, dtype: str, shape: Sequence[int]) -> bytes:
    dims = b"".join(_bytes(1, _number(1, dim)) for dim in shape)
    tensor = _number(1, _TYPES[dtype]) + _bytes(2, dims)
    return _text(1, name) + _bytes(2, _bytes(1, tensor))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())
