"""Emit one matrix product in the form its scheme asks for.

float32 and the compute type are plain MatMuls. A narrower float is cast once (engines fold the
cast when they load). int8 and int4 are a blocked DequantizeLinear in front of the MatMul, which
onnxruntime fuses to its 4/8-bit kernels and TensorRT reads as weight-only quantization; the
weight must lie as [K, N] for that, a transposed one is not fused. fp8 is QuantizeLinear and
DequantizeLinear on both operands, which TensorRT fuses to an 8-bit float product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ttt_export.weights import WeightSource
from ttt_export.writer import ONNX_TYPES, GraphWriter
from ttt_quant.scheme import (
    FP8,
    FP8_LARGEST,
    BlockQuantized,
    Float32Array,
    Scheme,
    pack_nibbles,
)

NUMPY_FLOATS: dict[str, type] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}

# Float32 weights of one column chunk: K x COLUMNS x 4 bytes are in memory at a time.
COLUMN_CHUNK = 4096


@dataclass(frozen=True)
class Matrix:
    """W [K, N], read a range of columns at a time (they are rows of the checkpoint's tensor).

    `columns(start, stop)` returns float32 [K, stop - start]; `tensors` names the checkpoint's
    tensors [N_i, K] that stand side by side in W.
    """

    name: str
    inputs: int
    outputs: int
    columns: Callable[[int, int], Float32Array]
    tensors: tuple[str, ...] = ()

    def whole(self) -> Float32Array:
        """Return all of W, float32 [K, N]."""
        return self.columns(0, self.outputs)


class LayerQuantizer(Protocol):
    """Makes integers; one that calibrates wants to see each layer before it is emitted."""

    def prepare_layer(self, index: int, source: WeightSource) -> WeightSource:
        """Return the weights from which layer `index` is to be emitted."""
        ...

    def prepare_heads(self, source: WeightSource) -> None:
        """Announce that all layers are emitted and the heads follow."""
        ...

    def input_peak(self, name: str) -> float | None:
        """Return the largest magnitude that the matrix `name` receives; None rounds no inputs."""
        ...

    def quantize(self, weight: Float32Array, scheme: Scheme, name: str) -> BlockQuantized:
        """Quantize a column chunk [K, n] of the matrix `name`."""
        ...


def column_ranges(outputs: int, chunk: int = COLUMN_CHUNK) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of the column chunks of a matrix."""
    for start in range(0, outputs, chunk):
        yield start, min(start + chunk, outputs)


def emit_linear(
    writer: GraphWriter,
    x: str,
    matrix: Matrix,
    scheme: Scheme,
    compute: str,
    quantizer: LayerQuantizer,
) -> str:
    """Add x [..., K] @ W [K, N] and return the product's name.

    Args:
        writer: graph under construction.
        x: name of the left operand, of the compute type.
        matrix: the weight.
        scheme: storage of the weight, fitted to K.
        compute: float type that the graph computes with.
        quantizer: makes integers of a column chunk.
    """
    name = matrix.name
    if scheme.kind == FP8:
        x = _rounded_input(writer, x, name, compute, quantizer.input_peak(name))
        weight = _fp8_weight(writer, matrix, compute)
    elif scheme.is_integer:
        weight = _quantized_weight(writer, matrix, scheme, compute, quantizer)
    else:
        weight = _float_weight(writer, matrix, scheme.kind)
        if scheme.kind != compute:
            weight = cast(writer, weight, f"{name}.wide", compute)
    return writer.node("MatMul", [x, weight], f"{name}.product")


def cast(writer: GraphWriter, x: str, output: str, dtype: str) -> str:
    """Add a Cast to a float type and return its output's name."""
    return writer.node("Cast", [x], output, to=ONNX_TYPES[dtype])


def _float_weight(writer: GraphWriter, matrix: Matrix, kind: str) -> str:
    whole: NDArray[Any] = np.empty((matrix.inputs, matrix.outputs), dtype=NUMPY_FLOATS[kind])
    for start, stop in column_ranges(matrix.outputs):
        whole[:, start:stop] = matrix.columns(start, stop)
    shape = (matrix.inputs, matrix.outputs)
    return writer.weight(f"{matrix.name}.weight", kind, shape, [whole])


def _rounded_input(writer: GraphWriter, x: str, name: str, compute: str, peak: float | None) -> str:
    """Round x to float8 by one scale, or leave it as it is where no peak is known."""
    if peak is None:
        return x
    scale: NDArray[Any] = np.array(max(peak, 1e-6) / FP8_LARGEST, dtype=NUMPY_FLOATS[compute])
    writer.constant(f"{name}.input_scale", scale)
    writer.constant("fp8_zero", np.zeros((), ml_dtypes.float8_e4m3fn))
    scaling = [f"{name}.input_scale", "fp8_zero"]
    narrow = writer.node("QuantizeLinear", [x, *scaling], f"{name}.input_codes")
    return writer.node("DequantizeLinear", [narrow, *scaling], f"{name}.input_rounded")


def _fp8_weight(writer: GraphWriter, matrix: Matrix, compute: str) -> str:
    name = matrix.name
    codes = np.empty((matrix.inputs, matrix.outputs), dtype=ml_dtypes.float8_e4m3fn)
    scales: NDArray[Any] = np.empty(matrix.outputs, dtype=NUMPY_FLOATS[compute])
    for start, stop in column_ranges(matrix.outputs):
        part = matrix.columns(start, stop)
        peak = np.maximum(np.abs(part).max(axis=0), 1e-6) / FP8_LARGEST
        scales[start:stop] = peak
        # Divided by the scale as it is stored; what rounding made too large saturates.
        scaled = part / scales[start:stop].astype(np.float32)
        codes[:, start:stop] = np.clip(scaled, -FP8_LARGEST, FP8_LARGEST)
    inputs = [
        writer.weight(f"{name}.codes", FP8, codes.shape, [codes]),
        writer.weight(f"{name}.scales", compute, scales.shape, [scales]),
    ]
    return writer.node("DequantizeLinear", inputs, f"{name}.weight", axis=1)


def _quantized_weight(
    writer: GraphWriter, matrix: Matrix, scheme: Scheme, compute: str, quantizer: LayerQuantizer
) -> str:
    name, blocks = matrix.name, matrix.inputs // scheme.block
    codes = np.empty((matrix.inputs, matrix.outputs), dtype=np.int8)
    scales: NDArray[Any] = np.empty((blocks, matrix.outputs), dtype=NUMPY_FLOATS[compute])
    zeros: NDArray[np.int8] | None = None
    for start, stop in column_ranges(matrix.outputs):
        part = quantizer.quantize(matrix.columns(start, stop), scheme, name)
        codes[:, start:stop] = part.codes
        scales[:, start:stop] = part.scales
        if part.zeros is not None:
            if zeros is None:
                zeros = np.zeros((blocks, matrix.outputs), dtype=np.int8)
            zeros[:, start:stop] = part.zeros

    def stored(values: NDArray[np.int8]) -> NDArray[np.uint8] | NDArray[np.int8]:
        return pack_nibbles(values) if scheme.bits == 4 else values

    shape = (matrix.inputs, matrix.outputs)
    scale_shape = (matrix.outputs,) if scheme.whole_columns else scales.shape
    inputs = [
        writer.weight(f"{name}.codes", scheme.kind, shape, [stored(codes)]),
        writer.weight(f"{name}.scales", compute, scale_shape, [scales]),
    ]
    if scheme.whole_columns:
        return writer.node("DequantizeLinear", inputs, f"{name}.weight", axis=1)
    if zeros is not None:
        inputs.append(writer.weight(f"{name}.zeros", scheme.kind, zeros.shape, [stored(zeros)]))
    return writer.node(
        "DequantizeLinear", inputs, f"{name}.weight", axis=0, block_size=scheme.block
    )


def emit_norm(
    writer: GraphWriter,
    x: str,
    name: str,
    scale: NDArray[np.floating],
    epsilon: float,
    output: str | None = None,
) -> str:
    """Add the root-mean-square norm of x [..., K], computed in float32; return its output's name.

    Args:
        writer: graph under construction.
        x: what is normed.
        name: stem of the names in the graph.
        scale: weight [K], of the type of x.
        epsilon: added to the mean square.
        output: name of the result; `<name>.normed` without one.
    """
    weight = writer.constant(f"{name}.scale", scale)
    return writer.node(
        "RMSNormalization",
        [x, weight],
        output or f"{name}.normed",
        axis=-1,
        epsilon=epsilon,
        stash_type=1,
    )
