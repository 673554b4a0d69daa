"""Exact 8-bit products in onnxruntime on x86 processors without VNNI.

There onnxruntime multiplies unsigned activations by signed weights with an instruction that adds
pairs of products in 16 bit, and saturates: rows come out a few per cent off, without a word
(microsoft/onnxruntime documents it under "U8S8 overflow"). Its session option makes the weights
unsigned as well, which cannot overflow; on other processors the option does nothing. It damages
graphs whose weights go through a blocked DequantizeLinear, which have no such products.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

OPTION: Final = ("session.x64quantprecision", "1")
_PRODUCTS: Final = (b"DynamicQuantizeMatMul", b"MatMulInteger", b"ConvInteger")
_DEQUANTIZED: Final = b"DequantizeLinear"
# A graph's nodes stand at the beginning of its file, before its weights.
_NODES_BYTES: Final = 8 * 2**20


def needs_unsigned_weights(path: Path) -> bool:
    """Tell whether a graph file multiplies in 8 bit by itself, and may be given the option.

    Args:
        path: an ONNX file; one that cannot be read needs nothing, whoever loads it says why.
    """
    try:
        with path.open("rb") as file:
            nodes = file.read(_NODES_BYTES)
    except OSError:
        return False
    return _DEQUANTIZED not in nodes and any(product in nodes for product in _PRODUCTS)
