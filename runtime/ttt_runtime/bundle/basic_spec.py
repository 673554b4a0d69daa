"""The model's graphs of basic operators: for TensorRT 10.0 to 10.14 and onnxruntime 1.20 to 1.30.

Inputs and outputs are those of the standard form (`graph_spec`). Inside are MatMul, Softmax,
ScatterND and their like, none younger than ONNX opset 20, where the standard form has Attention,
TensorScatter, RotaryEmbedding and RMSNormalization of opset 23 and 24. Weights in 4 bit import
opset 21, which brought the type and its blocks; TensorRT's parser reads both since 10.0.
"""

from __future__ import annotations

from typing import Final

from ttt_runtime.bundle.graph_spec import GraphSpec

OPERATORS: Final = "operators"  # attribute of a spec; without it the operators are standard
BASIC: Final = "basic"
# Oldest libraries that take each form's graphs.
BASIC_ONNXRUNTIME: Final = (1, 20)
STANDARD_ONNXRUNTIME: Final = (1, 31)
BASIC_TENSORRT: Final = (10, 0)
STANDARD_TENSORRT: Final = (10, 15)


def is_basic(spec: GraphSpec) -> bool:
    """Tell whether a graph has basic operators only."""
    return spec.attributes.get(OPERATORS) == BASIC


def least_onnxruntime(spec: GraphSpec) -> tuple[int, ...]:
    """Return the oldest onnxruntime that runs a graph of the model."""
    return BASIC_ONNXRUNTIME if is_basic(spec) else STANDARD_ONNXRUNTIME


def least_tensorrt(spec: GraphSpec) -> tuple[int, ...]:
    """Return the oldest TensorRT whose parser takes a graph of the model."""
    return BASIC_TENSORRT if is_basic(spec) else STANDARD_TENSORRT
