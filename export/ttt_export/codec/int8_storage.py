"""Store a graph's large weights as int8, computed in float32.

Each weight becomes Cast(int8) * scale, a constant expression: engines fold it once when they load
the graph, so it costs file size only, not time, and activations stay exact. That keeps codec
streams equal to offline runs, which activation scales taken from a whole window would not.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

MIN_ELEMENTS = 4_096


def quantise_rows(
    weight: NDArray[np.float32], axis: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 with one scale per index of ``axis``; returns (values, scales, broadcast)."""
    others = tuple(a for a in range(weight.ndim) if a != axis)
    peak = np.abs(weight).max(axis=others, keepdims=True)
    scale = np.maximum(peak, 1e-12).astype(np.float32) / np.float32(127.0)
    return np.rint(weight / scale).astype(np.int8), scale.astype(np.float32)


def _best_axis(weight: NDArray[np.float32]) -> int:
    """The axis whose scales lose least; a matrix's layout does not tell where its outputs are."""

    def loss(axis: int) -> float:
        values, scale = quantise_rows(weight, axis)
        return float(np.square(values * scale - weight).sum())

    return min(range(weight.ndim), key=loss)


def store_int8(model: onnx.ModelProto, keep: frozenset[str] = frozenset()) -> onnx.ModelProto:
    """Replace float32 weights of at least two axes and 4,096 elements; returns the same model.

    Args:
        model: changed in place.
        keep: names of initializers to leave as they are.
    """
    graph = model.graph
    nodes, kept = [], []
    for tensor in graph.initializer:
        large = len(tensor.dims) >= 2 and np.prod(tensor.dims) >= MIN_ELEMENTS
        if tensor.data_type != TensorProto.FLOAT or not large or tensor.name in keep:
            kept.append(tensor)
            continue
        weight = numpy_helper.to_array(tensor)
        values, scale = quantise_rows(weight, _best_axis(weight))
        name = tensor.name
        kept.append(numpy_helper.from_array(values, f"{name}.int8"))
        kept.append(numpy_helper.from_array(scale, f"{name}.scale"))
        nodes.append(
            helper.make_node("Cast", [f"{name}.int8"], [f"{name}.float"], to=TensorProto.FLOAT)
        )
        nodes.append(helper.make_node("Mul", [f"{name}.float", f"{name}.scale"], [name]))
    body = [*nodes, *graph.node]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.node[:]
    graph.node.extend(body)
    return model
