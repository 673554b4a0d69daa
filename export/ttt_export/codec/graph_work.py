"""Count the multiply-adds of an ONNX graph for given dimensions, without running it."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path

import onnx
from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

from ttt_ref.errors import ExportError

PRODUCTS = ("MatMul", "MatMulInteger", "Gemm", "Conv", "ConvTranspose")


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...] | None]:
    graph = model.graph
    found: dict[str, tuple[int, ...] | None] = {
        tensor.name: tuple(tensor.dims) for tensor in graph.initializer
    }
    for value in [*graph.input, *graph.value_info, *graph.output]:
        dims = value.type.tensor_type.shape.dim
        known = all(dim.HasField("dim_value") for dim in dims)
        found[value.name] = tuple(dim.dim_value for dim in dims) if known else None
    return found


def gflop(path: Path, dims: Mapping[str, int]) -> float:
    """Return the GFLOP (2 a multiply-add) of matrix products and convolutions.

    Args:
        path: graph file; its weights are not read.
        dims: a number for every named dimension of the inputs.

    Raises:
        ExportError: a shape does not follow from the inputs.
    """
    model = onnx.load(str(path), load_external_data=False)
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.dim_value = dims[dim.dim_param]
    for value in model.graph.output:  # their names would contradict the numbers
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    inferred = SymbolicShapeInference.infer_shapes(model, auto_merge=True)
    shapes = _shapes(inferred)
    total = 0
    for node in inferred.graph.node:
        if node.op_type not in PRODUCTS:
            continue
        left, right = shapes.get(node.input[0]), shapes.get(node.input[1])
        out = shapes.get(node.output[0])
        if left is None or right is None or out is None:
            raise ExportError(f"{path.name}: the shape of {node.name} does not follow from inputs")
        if node.op_type == "Conv":
            total += prod(out) * prod(right[1:])
        elif node.op_type == "ConvTranspose":
            total += prod(left) * prod(right[1:])
        else:
            total += prod(out) * left[-1]
    return 2e-9 * total
