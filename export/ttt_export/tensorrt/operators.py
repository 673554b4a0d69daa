"""Which operators and types TensorRT's ONNX parser takes since release 10.1.

The facts are those of the operator table of onnx-tensorrt 10.1 (opsets 9 to 20), as far as our
graphs come near them; JetPack 6 brings TensorRT 10.3, whose parser takes no fewer. A graph of basic
operators is held against them when it is exported, long before a board would refuse it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from ttt_ref.errors import ExportError

NEWEST_OPSET: Final = 20
# A graph may import the next opset for the sake of 4-bit types and blocks of DequantizeLinear. The
# parser goes by the shapes of the scales, and has read both since 10.0.
BLOCKS_OPSET: Final = 21

_FLOATS: Final = frozenset({"float32", "float16", "bfloat16"})
_NUMBERS: Final = _FLOATS | {"int32", "int64"}
_VALUES: Final = _NUMBERS | {"bool"}
_LOGIC: Final = frozenset({"bool"})

_OF_TYPES: Final = (
    (
        _FLOATS,
        "Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Clip Conv "
        "ConvTranspose Cos Cosh CumSum Dropout Einsum Elu Erf Exp Floor Gemm GlobalAveragePool "
        "GlobalLpPool GlobalMaxPool GroupNormalization GRU HardSigmoid HardSwish Hardmax "
        "ImageScaler InstanceNormalization IsInf LayerNormalization LeakyRelu Log LogSoftmax LRN "
        "LSTM LpNormalization LpPool MatMul MaxPool MeanVarianceNormalization ParametricSoftplus "
        "Pow PRelu QuantizeLinear RandomNormal RandomNormalLike RandomUniform RandomUniformLike "
        "Reciprocal Resize RNN Round ScaledTanh Scan Selu Sigmoid Sin Sinh Softmax Softplus "
        "Softsign Sqrt Tan Tanh ThresholdedRelu Upsample",
    ),
    (
        _NUMBERS,
        "Abs Add ArgMax ArgMin DepthToSpace Div Equal Gelu Greater GreaterOrEqual IsNaN Less "
        "LessOrEqual Max Mean Min Mod Mul Neg Pad Range ReduceL1 ReduceL2 ReduceLogSum "
        "ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu "
        "Scatter ScatterElements ScatterND Shrink Sign SpaceToDepth Sub Sum TopK",
    ),
    (
        _VALUES,
        "Concat Constant ConstantOfShape Expand EyeLike Flatten Gather GatherElements GatherND "
        "Identity If Loop OneHot Reshape ReverseSequence Shape Size Slice Split Squeeze Tile "
        "Transpose Trilu Unsqueeze Where",
    ),
    (_LOGIC, "And Not Or Xor"),
    (_VALUES | {"uint8"}, "Cast CastLike"),
    (frozenset({"int8", "float8e4m3fn", "int4"}), "DequantizeLinear"),
    (frozenset({"float32", "float16"}), "DeformConv GridSample Mish NonMaxSuppression NonZero"),
    (frozenset({"float32", "float16"}), "RoiAlign"),
)
# Operator -> element types of its data.
TYPES: Final[Mapping[str, frozenset[str]]] = {
    name: types for types, names in _OF_TYPES for name in names.split()
}
_FIRST_INPUT: Final = (
    *(name for name in TYPES if name.startswith("Reduce")),
    *("ConstantOfShape", "DequantizeLinear", "Expand", "Gather", "GatherElements", "GatherND"),
    *("OneHot", "Pad", "QuantizeLinear", "Reshape", "Slice", "Split", "Squeeze", "Tile", "TopK"),
    "Unsqueeze",
)
# Inputs that carry data where others carry indices, shapes, scales or conditions.
_DATA: Final[Mapping[str, tuple[int, ...]]] = {
    "ScatterND": (0, 2),
    "ScatterElements": (0, 2),
    "Where": (1, 2),
    **dict.fromkeys(_FIRST_INPUT, (0,)),
}
# Inputs that must be initializers.
_FIXED: Final[Mapping[str, tuple[int, ...]]] = {
    "CumSum": (1,),
    "Pad": (3,),
    "Slice": (3,),
    **dict.fromkeys((name for name in TYPES if name.startswith("Reduce")), (1,)),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), (1,)),
}
_MOST_TOPK: Final = 3839


def check_operators(model: onnx.ModelProto, graph: str) -> None:
    """Hold a graph against what the parser takes.

    Args:
        model: the graph; external data need not be loaded.
        graph: its name, for the message.

    Raises:
        ExportError: names the first node that a parser of TensorRT 10.1 would refuse, and why.
    """
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    types = _tensor_types(model)
    fixed = {proto.name: proto for proto in model.graph.initializer}
    for node in model.graph.node:
        reason = _refusal(node, types, fixed)
        if reason is not None:
            raise ExportError(
                f"graph {graph}: TensorRT 10.1 does not take node {node.name!r} ({node.op_type}): "
                f"{reason}"
            )
    if opset > NEWEST_OPSET and opset != BLOCKS_OPSET:
        raise ExportError(f"graph {graph} has opset {opset}; TensorRT 10.1 knows up to 20")


def _refusal(
    node: onnx.NodeProto,
    types: Mapping[str, str],
    fixed: Mapping[str, onnx.TensorProto],
) -> str | None:
    """Return why a node would be refused; None if it would not."""
    if node.domain not in ("", "ai.onnx"):
        return f"it is of the domain {node.domain}"
    known = TYPES.get(node.op_type)
    if known is None:
        return "its parser does not know this operator"
    places = _DATA.get(node.op_type, tuple(range(len(node.input))))
    for place in places:
        name = node.input[place] if place < len(node.input) else ""
        kind = types.get(name)  # an operator that onnx cannot infer leaves none behind it
        if kind is not None and kind not in known:
            return f"input {name} is {kind}, it takes {', '.join(sorted(known))}"
    for place in _FIXED.get(node.op_type, ()):
        name = node.input[place] if place < len(node.input) else ""
        if name and name not in fixed:
            return f"input {name} must be an initializer"
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return _special_refusal(node, attributes, fixed)


def _special_refusal(
    node: onnx.NodeProto,
    attributes: Mapping[str, Any],
    fixed: Mapping[str, onnx.TensorProto],
) -> str | None:
    if node.op_type == "ScatterND" and "reduction" in attributes:
        return "reduction is not supported"
    if node.op_type == "TopK":
        if attributes.get("sorted", 1) != 1:
            return "sorted must be 1"
        count = fixed.get(node.input[1])
        if count is not None and numpy_helper.to_array(count).max() > _MOST_TOPK:
            return f"K must not be above {_MOST_TOPK}"
    if node.op_type in ("DequantizeLinear", "QuantizeLinear"):
        return _scaling_refusal(node, attributes, fixed)
    return None


def _scaling_refusal(
    node: onnx.NodeProto, attributes: Mapping[str, Any], fixed: Mapping[str, onnx.TensorProto]
) -> str | None:
    zeros = fixed.get(node.input[2]) if len(node.input) > 2 else None
    if zeros is not None:
        # Codes of ours with zero points lie outside of the file: none of those are zeros.
        inside = zeros.data_location != TensorProto.EXTERNAL
        if not inside or np.asarray(numpy_helper.to_array(zeros), np.float32).any():
            return "zero points must be 0"
    codes, scales = fixed.get(node.input[0]), fixed.get(node.input[1])
    if codes is None or scales is None:
        return None
    if codes.data_type == TensorProto.INT4 and codes.dims[-1] % 2:
        return "4-bit weights need an even last dimension"
    if attributes.get("block_size"):
        blocked = [a != b for a, b in zip(codes.dims, scales.dims, strict=True)]
        if len(codes.dims) != 2 or sum(blocked) > 1:
            return "blocks lie along one of two dimensions"
    return None


def _tensor_types(model: onnx.ModelProto) -> dict[str, str]:
    """Return the element type of every tensor of a graph, inferred."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {proto.name: proto.data_type for proto in graph.initializer}
    for info in (*graph.input, *graph.value_info, *graph.output):
        types[info.name] = info.type.tensor_type.elem_type
    known = {code: name.lower() for name, code in TensorProto.DataType.items()}
    known |= {TensorProto.FLOAT: "float32", TensorProto.DOUBLE: "float64"}
    return {name: known[code] for name, code in types.items()}
