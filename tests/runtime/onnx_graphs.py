"""Small ONNX files for the tests of `onnx_file`, and what both readers say of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import ttt_runtime
from ttt_export.writer import GraphWriter
from ttt_ref.errors import BundleError
from ttt_runtime.backends.native.onnx_file import OnnxFile
from ttt_runtime.bundle.graph_spec import GraphSpec, TensorSpec

SHIPPED = Path(ttt_runtime.__file__).parent / "bundles" / "tiny"
WEIGHTS: dict[str, NDArray[Any]] = {
    "float32": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "float16": np.linspace(-2, 2, 5, dtype=np.float16),
    "uint8": np.arange(250, 256, dtype=np.uint8).reshape(2, 1, 3),
    "int8": np.array([-128, 0, 127], np.int8),
}
CONSTANTS: dict[str, NDArray[Any]] = {
    "scalar": np.array(-3, np.int64),
    "rows": np.array([[1, -2], [3, 2**31 - 1]], np.int32),
    "flags": np.array([True, False, True]),
    "nothing": np.zeros((0, 3), np.float32),
}


def write_graph(path: Path) -> Path:
    """A graph with every kind of weight and attribute, written as exports are."""
    with GraphWriter(path) as writer:
        for dtype, value in WEIGHTS.items():
            writer.weight(f"w.{dtype}", dtype, value.shape, [value[:1], value[1:]])
        writer.weight("w.empty", "float32", (0, 7), [])
        for name, value in CONSTANTS.items():
            writer.constant(name, value)
        writer.node("Add", ["x", "w.float32"], "y", domain="com.toy", bits=4, k=-1, scale=0.5)
        writer.nodes("Split", ["y", ""], ["a", "b"], axis=0, sizes=[1, 2], mode="half", zero=0.0)
        spec = TensorSpec("x", "float32", ("N", 4))
        writer.finish(GraphSpec("toy", (spec,), (TensorSpec("y", "float32", ("N", 4)),)))
    return path


def save(folder: Path, *initializers: TensorProto, nodes: Iterable[onnx.NodeProto] = ()) -> Path:
    """Write a graph of these initializers."""
    graph = helper.make_graph(list(nodes), "toy", [], [], initializer=list(initializers))
    path = folder / "toy.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def external(
    dims: Iterable[int] = (2,), kind: int = TensorProto.FLOAT, **at: object
) -> TensorProto:
    """An initializer `w` beside the graph."""
    proto = TensorProto(name="w", data_type=kind, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in at.items():
        proto.external_data.add(key=key, value=str(value))
    return proto


def inside(dims: Iterable[int], raw: bytes, kind: int = TensorProto.FLOAT) -> TensorProto:
    return TensorProto(name="w", data_type=kind, dims=dims, raw_data=raw)


def refused(path: Path, name: str | None = None) -> str:
    """The one line that refuses the file, or its initializer of this name."""
    if name is None:
        with pytest.raises(BundleError) as caught:
            OnnxFile.read(path)
    else:
        file = OnnxFile.read(path)
        with pytest.raises(BundleError) as caught:
            file.tensor(name)
    line = str(caught.value)
    assert "\n" not in line
    assert path.name in line
    assert "expected" in line
    assert line.endswith("; export the bundle again")
    return line


def assert_same(path: Path, proto: onnx.ModelProto, file: OnnxFile) -> None:
    assert len(file.nodes) == len(proto.graph.node)
    for node, other in zip(file.nodes, proto.graph.node, strict=True):
        assert (node.op_type, node.domain) == (other.op_type, other.domain)
        assert node.inputs == tuple(other.input)
        assert node.outputs == tuple(other.output)
        single = (onnx.AttributeProto.FLOAT, onnx.AttributeProto.INT)
        kept = [a for a in other.attribute if a.type in single]
        expected = {a.name: helper.get_attribute_value(a) for a in kept}
        assert node.attributes == expected
        assert {k: type(v) for k, v in node.attributes.items()} == {
            k: type(v) for k, v in expected.items()
        }
    assert file.names() == [t.name for t in proto.graph.initializer]
    for tensor in proto.graph.initializer:
        array = file.tensor(tensor.name)
        expected_array = numpy_helper.to_array(tensor, str(path.parent))
        assert array.dtype == expected_array.dtype
        assert array.shape == expected_array.shape
        assert array.tobytes() == expected_array.tobytes()
        assert not array.flags.writeable


def packed(*values: int) -> bytes:
    """Numbers as varints."""
    out = bytearray()
    for number in values:
        value = number % 2**64
        while value >= 0x80:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)
    return bytes(out)


def field(number: int, value: int | bytes) -> bytes:
    """One field of a message."""
    if isinstance(value, bytes):
        return packed(number << 3 | 2, len(value)) + value
    return packed(number << 3, value)


def write_raw(folder: Path, graph: bytes) -> Path:
    path = folder / "raw.onnx"
    path.write_bytes(field(7, graph))
    return path
