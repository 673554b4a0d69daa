"""Write the runtime's graph for going over long logits: ``python -m ttt_export.survey_graph``.

It belongs to no model, so it lies in the runtime's own package. See `ttt_runtime.survey`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ttt_export.writer import IR_VERSION, OPSET, value_info
from ttt_runtime.survey import GRAPH, SPEC


def survey_model() -> onnx.ModelProto:
    """Peaks of rows [N], and the sum of exp((logit - largest) * per_unit) [1] of all rows."""
    nodes = [
        helper.make_node("ReduceMax", ["logits", "columns"], ["peaks"], keepdims=0),
        helper.make_node("ReduceMax", ["peaks"], ["best"], keepdims=1),
        helper.make_node("Sub", ["logits", "best"], ["relative"]),
        helper.make_node("Mul", ["relative", "per_unit"], ["exponent"]),
        helper.make_node("Exp", ["exponent"], ["term"]),
        # Rows first: a sum of sums loses less than one long sum.
        helper.make_node("ReduceSum", ["term", "columns"], ["row_sum"], keepdims=0),
        helper.make_node("ReduceSum", ["row_sum"], ["sum_exp"], keepdims=1),
    ]
    graph = helper.make_graph(
        nodes,
        SPEC.name,
        [value_info(tensor) for tensor in SPEC.inputs],
        [value_info(tensor) for tensor in SPEC.outputs],
        [numpy_helper.from_array(np.array([1], dtype=np.int64), "columns")],
    )
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)


def write(path: Path) -> None:
    """Write the checked graph."""
    model = survey_model()
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


if __name__ == "__main__":
    write(GRAPH)
