"""Write an ONNX graph node by node, its weights straight into an external data file.

The protobuf stays small whatever the model's size, and only one weight is in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ttt_runtime.bundle.basic_spec import is_basic
from ttt_runtime.bundle.graph_spec import GraphSpec, TensorSpec

OPSET = 24
IR_VERSION = 11
# Graphs of basic operators: opset, IR version of its time. Weights in blocks need the second pair.
BASIC_OPSET: Final = (20, 9)
BASIC_BLOCKS_OPSET: Final = (21, 10)
# Engines map the data file; tensors that start on a page can be used where they lie.
ALIGNMENT_BYTES = 4096

ONNX_TYPES: Mapping[str, int] = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
    "int4": TensorProto.INT4,
    "uint4": TensorProto.UINT4,
    "fp8": TensorProto.FLOAT8E4M3FN,
}


def value_info(spec: TensorSpec) -> onnx.ValueInfoProto:
    """Return the ONNX form of a tensor spec; named dimensions stay names."""
    return helper.make_tensor_value_info(spec.name, ONNX_TYPES[spec.dtype], list(spec.shape))


class GraphWriter:
    """Collects nodes and streams weights; `finish` writes the model file.

    Args:
        path: the `.onnx` file to write; weights go to `<name>.data` beside it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data_path = path.with_name(path.name + ".data")
        self._data = self._data_path.open("wb")
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._used: set[str] = set()

    def __enter__(self) -> GraphWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._data.close()

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        output: str,
        **attributes: Any,
    ) -> str:
        """Add a node with one output and return that output's name."""
        self.nodes(op, inputs, [output], **attributes)
        return output

    def nodes(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> list[str]:
        """Add a node with several outputs and return their names."""
        self._nodes.append(
            helper.make_node(op, list(inputs), list(outputs), name=outputs[0], **attributes)
        )
        return list(outputs)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add a small constant inside the model file; the same name is added once."""
        if name not in self._used:
            self._used.add(name)
            self._initializers.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def weight(
        self, name: str, dtype: str, shape: Sequence[int], pieces: Iterable[NDArray[Any]]
    ) -> str:
        """Stream a weight into the data file.

        Args:
            name: initializer name.
            dtype: element type as in `ONNX_TYPES`.
            shape: shape of the whole tensor.
            pieces: arrays whose bytes, one after the other, are the tensor (4-bit types packed
                two to a byte, the first in the low half).
        """
        position = self._data.tell()
        padding = -position % ALIGNMENT_BYTES
        self._data.write(b"\0" * padding)
        offset = position + padding
        length = 0
        for piece in pieces:
            data = np.ascontiguousarray(piece)
            self._data.write(data.reshape(-1).view(np.uint8).data)
            length += data.nbytes
        bits = 4 if dtype in ("int4", "uint4") else _bits(dtype)
        expected = (math.prod(shape) * bits + 7) // 8
        assert length == expected, f"{name}: wrote {length} bytes, expected {expected}"
        proto = TensorProto(name=name, data_type=ONNX_TYPES[dtype], dims=shape)
        proto.data_location = TensorProto.EXTERNAL
        for key, value in (
            ("location", self._data_path.name),
            ("offset", str(offset)),
            ("length", str(length)),
        ):
            proto.external_data.add(key=key, value=value)
        self._initializers.append(proto)
        return name

    def finish(self, spec: GraphSpec) -> None:
        """Write the model with the inputs and outputs of `spec`."""
        graph = helper.make_graph(
            self._nodes,
            spec.name,
            [value_info(t) for t in spec.inputs],
            [value_info(t) for t in spec.outputs],
            initializer=self._initializers,
        )
        domains = sorted({node.domain for node in self._nodes if node.domain})
        opset, ir_version = self._opset(spec)
        model = helper.make_model(
            graph,
            opset_imports=[
                helper.make_opsetid("", opset),
                *(helper.make_opsetid(domain, 1) for domain in domains),
            ],
            ir_version=ir_version,
            producer_name="ttt-export",
        )
        self._data.flush()
        self.path.write_bytes(model.SerializeToString())

    def _opset(self, spec: GraphSpec) -> tuple[int, int]:
        """Return opset and IR version: the lowest that have what the graph is made of."""
        if not is_basic(spec):
            return OPSET, IR_VERSION
        in_blocks = any(a.name == "block_size" for node in self._nodes for a in node.attribute)
        return BASIC_BLOCKS_OPSET if in_blocks else BASIC_OPSET


def _bits(dtype: str) -> int:
    return {"float32": 32, "float16": 16, "bfloat16": 16, "int8": 8, "uint8": 8, "fp8": 8}[dtype]
