"""AWQ: scale up the input channels that carry much, before rounding.

After Lin et al., "AWQ: Activation-aware Weight Quantization" (MLSys 2024). A channel's weights are
multiplied by s and its inputs divided by s, which costs nothing when the division can be folded
into what makes the inputs. The exponent of s = magnitude^a is searched by the output error.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ttt_quant.activations import Activations
from ttt_quant.rtn import in_blocks, quantize_rtn, round_with, symmetric_scales
from ttt_quant.scheme import BlockQuantized, Float32Array, Scheme

EXPONENTS = tuple(step / 10 for step in range(11))
SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
# Columns that stand for the whole matrix while the exponent is searched.
SAMPLE_COLUMNS = 512


def output_error(weight: Float32Array, quantized: Float32Array, moments: Float32Array) -> float:
    """Return the mean squared error of x W over the inputs seen: tr(ET H E), E the error."""
    error = weight - quantized
    return float(np.einsum("kn,kn->", error, moments @ error, dtype=np.float64))


def input_scale(weight: Float32Array, scheme: Scheme, seen: Activations) -> Float32Array:
    """Return s [K], mean about 1, by which W's rows are to be multiplied before rounding.

    Args:
        weight: W [K, N].
        scheme: fitted to K.
        seen: the inputs that calibration met.
    """
    sample = weight[:, :: max(1, weight.shape[1] // SAMPLE_COLUMNS)]
    magnitude = np.maximum(seen.mean_magnitude, 1e-4)
    moments = seen.moments
    plain = replace(scheme, algorithm="rtn")
    best, least = np.ones(len(weight), np.float32), np.inf
    for exponent in EXPONENTS:
        scale = np.power(magnitude, np.float32(exponent))
        scale = (scale / np.sqrt(scale.max() * scale.min())).astype(np.float32)
        rounded = quantize_rtn(sample * scale[:, None], plain).dequantize() / scale[:, None]
        error = output_error(sample, rounded, moments)
        if error < least:
            best, least = scale, error
    return best


def quantize_clipped(
    weight: Float32Array, scheme: Scheme, seen: Activations | None
) -> BlockQuantized:
    """Round W [K, N] with the block ranges shrunk where that lowers the weighted error.

    The range of a block is set by its largest weight; giving that one up a little can serve all
    the others. Each block and column chooses among a few shrinks.
    """
    if not scheme.symmetric:
        return quantize_rtn(weight, scheme)
    full = symmetric_scales(weight, scheme.bits, scheme.block)
    importance = np.ones(len(weight), np.float32)
    if seen is not None:
        importance = np.maximum(np.diag(seen.moments), 1e-8).astype(np.float32)
    weights = importance.reshape(len(full), scheme.block, 1)
    best, least = full, np.full(full.shape, np.inf, np.float32)
    for shrink in SHRINKS:
        scales = full * np.float32(shrink)
        rounded = round_with(weight, scales, None, scheme.bits, scheme.block).dequantize()
        error = in_blocks(weight - rounded, scheme.block)
        loss = (weights * error * error).sum(axis=1)
        better = loss < least
        best, least = np.where(better, scales, best), np.where(better, loss, least)
    return round_with(weight, best, None, scheme.bits, scheme.block)
