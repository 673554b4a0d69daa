"""Matrix products of the GQA decoder: stored 4/8-bit blocks as they are, or int8 by rows.

`BlockProducts` repeats what the standard graph stores, in onnxruntime's own node: that takes half
the memory while loading, since nothing has to be transposed and fused first, and takes the bias.

`RowProducts` stores a matrix as int8 with one scale for each output channel and rounds the inputs
to int8 with one scale for each row. A product of many rows then is one of integers, for which
CPUs have instructions of their own. The scale of a row depends on that row alone, so a row's
result does not depend on what is computed beside it: a cached row stays equal to a computed one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ttt_export.graph_weights import GraphTensors
from ttt_export.linear import NUMPY_FLOATS, Matrix, cast, column_ranges
from ttt_export.weights import Float32Array
from ttt_export.writer import GraphWriter
from ttt_quant.scheme import BlockQuantized

CONTRIB: Final = "com.microsoft"
ROUNDED_INPUTS: Final = 4  # MatMulNBits' accuracy level: inputs rounded to int8 a block
_KINDS: Final[dict[np.dtype[Any], str]] = {np.dtype(t): n for n, t in NUMPY_FLOATS.items()}


class Products(Protocol):
    """Emits a product of the decoder by its name."""

    def emit(
        self,
        writer: GraphWriter,
        x: str,
        name: str,
        bias: Float32Array | None = None,
        factors: Float32Array | None = None,
    ) -> str:
        """Add x [1, Q, K] @ W [K, N] (+ bias [N]) for the matrix `name`; return the result.

        `factors` [N] multiply the columns of W (not the bias); they go into its scales.
        """
        ...


def packed_blocks(codes: NDArray[np.int8], bits: int, block: int) -> NDArray[np.uint8]:
    """Return codes [K, n] as MatMulNBits wants them: uint8 [n, K / block, block * bits / 8]."""
    inputs, outputs = codes.shape
    raised = (codes + np.int8(8)).astype(np.uint8) if bits == 4 else codes.view(np.uint8) ^ 0x80
    rows = np.ascontiguousarray(raised.T).reshape(outputs, inputs // block, block)
    return _pairs(rows) if bits == 4 else rows


def packed_zeros(zeros: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """Return zero points [K / block, N] as uint8 [N, ceil(K / block * bits / 8)]."""
    raised = (zeros.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8).T
    if bits == 8:
        return np.ascontiguousarray(raised)
    if raised.shape[1] % 2:
        raised = np.pad(raised, ((0, 0), (0, 1)))
    return _pairs(raised)


def _pairs(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pack 4-bit values two to a byte along the last axis, the first in the low half."""
    return np.ascontiguousarray(values[..., 0::2] | (values[..., 1::2] << 4))


class BlockProducts:
    """Products with the weights of a written standard graph.

    Args:
        tensors: the standard graph.
    """

    def __init__(self, tensors: GraphTensors) -> None:
        self._tensors = tensors

    def emit(
        self,
        writer: GraphWriter,
        x: str,
        name: str,
        bias: Float32Array | None = None,
        factors: Float32Array | None = None,
    ) -> str:
        """See `Products.emit`."""
        stored = self._tensors.matrix(name)
        if isinstance(stored, BlockQuantized):
            if factors is not None:
                stored = replace(stored, scales=stored.scales * factors)
            return self._blocks(writer, x, name, stored, bias)
        if factors is not None:
            stored = stored.astype(np.float32) * factors
        kind = _KINDS[stored.dtype]
        weight = writer.weight(f"{name}.weight", kind, stored.shape, [stored])
        if kind != "float32":
            weight = cast(writer, weight, f"{name}.wide", "float32")
        product = writer.node("MatMul", [x, weight], f"{name}.product")
        return product if bias is None else with_bias(writer, product, name, bias)

    def _blocks(
        self,
        writer: GraphWriter,
        x: str,
        name: str,
        stored: BlockQuantized,
        bias: Float32Array | None,
    ) -> str:
        width, outputs = stored.codes.shape
        blocks, bits = width // stored.block, stored.bits
        shape = (outputs, blocks, stored.block * bits // 8)
        pieces = (
            packed_blocks(stored.codes[:, start:stop], bits, stored.block)
            for start, stop in column_ranges(outputs)
        )
        inputs = [
            x,
            writer.weight(f"{name}.codes", "uint8", shape, pieces),
            writer.weight(f"{name}.scales", "float32", (outputs, blocks), [stored.scales.T]),
        ]
        if stored.zeros is not None:
            zeros = packed_zeros(stored.zeros, bits)
            inputs.append(writer.weight(f"{name}.zeros", "uint8", zeros.shape, [zeros]))
        if bias is not None:
            inputs += [""] * (5 - len(inputs)) + [writer.constant(f"{name}.bias", bias)]
        return writer.node(
            "MatMulNBits",
            inputs,
            f"{name}.product",
            domain=CONTRIB,
            K=width,
            N=outputs,
            bits=bits,
            block_size=stored.block,
            accuracy_level=ROUNDED_INPUTS,
        )


class RowProducts:
    """Products in int8, inputs rounded a row at a time.

    Args:
        matrices: the checkpoint's matrices of the layer in work, by name.
    """

    def __init__(self, matrices: dict[str, Matrix]) -> None:
        self._matrices = matrices

    def emit(
        self,
        writer: GraphWriter,
        x: str,
        name: str,
        bias: Float32Array | None = None,
        factors: Float32Array | None = None,
    ) -> str:
        """See `Products.emit`."""
        matrix = self._matrices[name]
        codes, scales = self._weight(matrix)
        if factors is not None:
            scales = scales * factors
        inputs = [
            self._rounded(writer, x),
            writer.weight(f"{name}.codes", "int8", codes.shape, [codes]),
            writer.constant("one", np.ones((), np.float32)),
            writer.weight(f"{name}.scales", "float32", scales.shape, [scales]),
            writer.constant("middle", np.array(128, np.uint8)),
        ]
        units = writer.node("MatMulIntegerToFloat", inputs, f"{name}.units", domain=CONTRIB)
        product = writer.node("Mul", [units, f"{x}.scale"], f"{name}.product")
        return product if bias is None else with_bias(writer, product, name, bias)

    @staticmethod
    def _weight(matrix: Matrix) -> tuple[NDArray[np.int8], Float32Array]:
        codes = np.empty((matrix.inputs, matrix.outputs), np.int8)
        scales = np.empty(matrix.outputs, np.float32)
        for start, stop in column_ranges(matrix.outputs):
            part = matrix.columns(start, stop)
            scales[start:stop] = np.maximum(np.abs(part).max(axis=0), 1e-12) / 127
            codes[:, start:stop] = np.rint(part / scales[start:stop])
        return codes, scales

    @staticmethod
    def _rounded(writer: GraphWriter, x: str) -> str:
        """Round x [1, Q, K] to uint8 around 128; `<x>.scale` [1, Q, 1] is what a unit is worth."""
        writer.constant("last_axis", np.array([-1], np.int64))
        writer.constant("outer_axes", np.array([0, 2], np.int64))
        writer.constant("per_unit", np.array(1 / 127, np.float32))
        writer.constant("smallest", np.array(1e-30, np.float32))  # a row of zeros stays finite
        high = writer.node("ReduceMax", [x, "last_axis"], f"{x}.high", keepdims=1)
        low = writer.node("ReduceMin", [x, "last_axis"], f"{x}.low", keepdims=1)
        negative = writer.node("Neg", [low], f"{x}.negative")
        peak = writer.node("Max", [high, negative, "smallest"], f"{x}.peak")
        writer.node("Mul", [peak, "per_unit"], f"{x}.scale")
        scales = writer.node("Squeeze", [f"{x}.scale", "outer_axes"], f"{x}.scales")
        return writer.node("QuantizeLinear", [x, scales, "middles"], f"{x}.codes", axis=1)


def emit_middles(writer: GraphWriter) -> None:
    """Add `middles` uint8 [Q], the zero points of all rows: 128 each."""
    writer.constant("middle", np.array(128, np.uint8))
    rows = writer.node("Shape", ["positions"], "rows", start=1, end=2)
    writer.node("Expand", ["middle", rows], "middles")


def with_bias(writer: GraphWriter, product: str, name: str, bias: Any) -> str:
    """Add a bias [N] to a product."""
    return writer.node("Add", [product, writer.constant(f"{name}.bias", bias)], f"{name}.biased")
