"""Write the runtime's own graphs for long logits: ``python -m ttt_export.runtime_graphs``.

They belong to no model, so they lie in the runtime's own package. See
`ttt_runtime.backends.ort.top_k` and `ttt_runtime.backends.ort.softmax`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ttt_export.writer import BASIC_OPSET, value_info
from ttt_runtime.backends.ort import softmax, top_k
from ttt_runtime.bundle.graph_spec import GraphSpec


def top_k_model() -> onnx.ModelProto:
    """Choose the `count` largest of logits [N, 256] and sum exp((logit - largest) * per_unit).

    The largest stand in the `count` rows of the highest peaks, so only those are sorted. Equals
    are taken in their order, by TopK's rule twice.
    """
    nodes = [
        helper.make_node("ReduceMax", ["logits", "columns"], ["peaks"], keepdims=0),
        helper.make_node("TopK", ["peaks", "count"], ["top_peaks", "by_peak"], axis=0),
        # In the order of their places again: of equal logits the first is wanted.
        helper.make_node("Mul", ["by_peak", "minus_one"], ["negative"]),
        helper.make_node("TopK", ["negative", "count"], ["descending", "order"], axis=0),
        helper.make_node("Mul", ["descending", "minus_one"], ["rows"]),
        helper.make_node("Gather", ["logits", "rows"], ["near"], axis=0),
        helper.make_node("Reshape", ["near", "flat"], ["candidates"]),
        helper.make_node("TopK", ["candidates", "count"], ["values", "places"], axis=0),
        helper.make_node("Div", ["places", "width"], ["row_of"]),
        helper.make_node("Gather", ["rows", "row_of"], ["row"], axis=0),
        helper.make_node("Mod", ["places", "width"], ["column"]),
        helper.make_node("Mul", ["row", "width"], ["row_start"]),
        helper.make_node("Add", ["row_start", "column"], ["ids"]),
        helper.make_node("ReduceMax", ["peaks"], ["best"], keepdims=1),
        helper.make_node("Sub", ["logits", "best"], ["relative"]),
        helper.make_node("Mul", ["relative", "per_unit"], ["exponent"]),
        helper.make_node("Exp", ["exponent"], ["term"]),
        # Rows first: a sum of sums loses less than one long sum.
        helper.make_node("ReduceSum", ["term", "columns"], ["row_sum"], keepdims=0),
        helper.make_node("ReduceSum", ["row_sum"], ["sum_exp"], keepdims=1),
    ]
    numbers = {"columns": [1], "minus_one": [-1], "flat": [-1], "width": [top_k.ROW]}
    return _model(
        top_k.SPEC,
        nodes,
        [
            numpy_helper.from_array(np.array(values, dtype=np.int64), name)
            for name, values in numbers.items()
        ],
    )


def softmax_model() -> onnx.ModelProto:
    """Turn each row of logits [N, V] into probabilities."""
    return _model(
        softmax.SPEC, [helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1)], []
    )


def _model(
    spec: GraphSpec, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        spec.name,
        [value_info(tensor) for tensor in spec.inputs],
        [value_info(tensor) for tensor in spec.outputs],
        constants,
    )
    number, ir_version = BASIC_OPSET  # they run beside bundles of every form
    opset = helper.make_opsetid("", number)
    return helper.make_model(graph, opset_imports=[opset], ir_version=ir_version)


def write(model: onnx.ModelProto, path: Path) -> None:
    """Write the checked graph."""
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


if __name__ == "__main__":
    write(top_k_model(), top_k.GRAPH)
    write(softmax_model(), softmax.GRAPH)
