"""What the check of TensorRT's parser refuses, on graphs of one node."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ttt_export.tensorrt.operators import TYPES, check_operators
from ttt_ref.errors import ExportError

FLOAT, HALF, INT64, BOOL = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.INT64,
    TensorProto.BOOL,
)


def graph_of(
    op: str,
    inputs: dict[str, int],
    fixed: dict[str, Any] | None = None,
    opset: int = 20,
    domain: str = "",
    output: int = FLOAT,
    outputs: tuple[str, ...] = ("y",),
    **attributes: Any,
) -> onnx.ModelProto:
    """One node over inputs [4, 4] of these types and over initializers."""
    fixed = fixed or {}
    protos = [
        value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(value, name)
        for name, value in fixed.items()
    ]
    node = helper.make_node(
        op, [*inputs, *fixed], list(outputs), name="the node", domain=domain, **attributes
    )
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info(name, kind, [4, 4]) for name, kind in inputs.items()],
        [helper.make_tensor_value_info("y", output, None)],
        protos,
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("other", 1)]
    return helper.make_model(graph, opset_imports=opsets)


def int4(name: str, shape: list[int]) -> onnx.TensorProto:
    size = int(np.prod(shape))
    return helper.make_tensor(name, TensorProto.INT4, shape, [1] * size)


def scales(*shape: int) -> np.ndarray[Any, Any]:
    return np.ones(shape, np.float32)


REFUSED = {
    "its parser does not know this operator": graph_of("Attention", {"a": FLOAT}, opset=23),
    "it is of the domain other": graph_of("Gelu", {"a": FLOAT}, domain="other"),
    "input a is bool, it takes": graph_of("ReduceMax", {"a": BOOL}),
    "input a is int64, it takes": graph_of("Softmax", {"a": INT64}),
    "input axes must be an initializer": graph_of("ReduceMean", {"a": FLOAT, "axes": INT64}),
    "reduction is not supported": graph_of(
        "ScatterND",
        {"a": FLOAT, "i": INT64, "u": FLOAT},
        reduction="add",
    ),
    "K must not be above 3839": graph_of(
        "TopK", {"a": FLOAT}, {"k": np.array([4000])}, outputs=("y", "n")
    ),
    "sorted must be 1": graph_of(
        "TopK", {"a": FLOAT}, {"k": np.array([2])}, outputs=("y", "n"), sorted=0
    ),
    "zero points must be 0": graph_of(
        "DequantizeLinear",
        {},
        {"w": np.ones((4, 4), np.int8), "s": scales(4), "z": np.ones(4, np.int8)},
        axis=1,
    ),
    "need an even last dimension": graph_of(
        "DequantizeLinear",
        {},
        {"w": int4("w", [4, 3]), "s": scales(2, 3)},
        opset=21,
        axis=0,
        block_size=2,
    ),
}
TAKEN = [
    graph_of("Softmax", {"a": HALF}, output=HALF),
    graph_of("Gather", {"a": FLOAT}, {"i": np.array([0])}),
    graph_of("Where", {"c": BOOL, "a": FLOAT, "b": FLOAT}),
    graph_of("ReduceMean", {"a": FLOAT}, {"axes": np.array([1])}),
    graph_of(
        "DequantizeLinear",
        {},
        {"w": int4("w", [4, 4]), "s": scales(2, 4)},
        opset=21,
        axis=0,
        block_size=2,
    ),
]


@pytest.mark.parametrize("reason", list(REFUSED))
def test_a_refusal_names_node_and_reason(reason: str) -> None:
    with pytest.raises(
        ExportError, match=r"TensorRT 10\.1 does not take node 'the node'"
    ) as caught:
        check_operators(REFUSED[reason], "toy")
    assert reason in str(caught.value)


def test_newer_opsets_are_refused() -> None:
    with pytest.raises(ExportError, match=r"has opset 22; TensorRT 10\.1 knows up to 20"):
        check_operators(graph_of("Cos", {"a": FLOAT}, opset=22), "toy")


@pytest.mark.parametrize("number", range(len(TAKEN)))
def test_what_the_parser_takes_passes(number: int) -> None:
    check_operators(TAKEN[number], "toy")


def test_the_table_is_the_releases() -> None:
    """150 operators; the four that came with 10.14 and 10.15 are not among them."""
    assert len(TYPES) == 150
    assert TYPES.keys().isdisjoint(
        {"Attention", "RMSNormalization", "RotaryEmbedding", "TensorScatter"}
    )
