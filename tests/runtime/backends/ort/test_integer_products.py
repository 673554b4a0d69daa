"""8-bit products are exact on every x86 processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ttt_runtime.backends.ort.integer_products import needs_unsigned_weights
from ttt_runtime.backends.ort.session import GraphSession, SessionSettings
from ttt_runtime.bundle.graph_spec import GraphSpec, TensorSpec


def write(path: Path, nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto]) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 32])
    graph = helper.make_graph(nodes, "product", [x], [y], weights)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    )
    model.ir_version = 10
    onnx.save(model, path)


def test_sums_of_large_products_do_not_saturate(tmp_path):
    """Without VNNI pairs of products were added in 16 bit: 255 * 127 * 2 does not fit there."""
    weight = np.full((64, 32), 127, np.int8)
    tensors = [
        numpy_helper.from_array(weight, "w"),
        numpy_helper.from_array(np.float32(1.0), "scale"),
        numpy_helper.from_array(np.int8(0), "zero"),
    ]
    node = helper.make_node(
        "DynamicQuantizeMatMul", ["x", "w", "scale", "zero"], ["y"], domain="com.microsoft"
    )
    write(tmp_path / "product.onnx", [node], tensors)
    assert needs_unsigned_weights(tmp_path / "product.onnx")
    spec = GraphSpec(
        "product",
        (TensorSpec("x", "float32", ("N", 64)),),
        (TensorSpec("y", "float32", ("N", 32)),),
    )
    session = GraphSession(tmp_path / "product.onnx", spec, SessionSettings(threads=1))
    x = np.ones((3, 64), np.float32)
    assert session.run({"x": x})[0] == pytest.approx(np.full((3, 32), 64 * 127.0), rel=0.01)


def test_graphs_whose_weights_are_dequantized_are_left_alone(tmp_path):
    tensors = [
        numpy_helper.from_array(np.ones((64, 32), np.int8), "w"),
        numpy_helper.from_array(np.ones((2, 32), np.float32), "scale"),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale"], ["d"], axis=0, block_size=32),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    write(tmp_path / "blocks.onnx", nodes, tensors)
    assert not needs_unsigned_weights(tmp_path / "blocks.onnx")


def test_a_file_that_cannot_be_read_needs_nothing(tmp_path):
    assert not needs_unsigned_weights(tmp_path / "none.onnx")
