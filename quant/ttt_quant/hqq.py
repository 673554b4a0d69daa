"""Half-quadratic quantization: zero points found without any calibration data.

After Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models" (2023): the
error |W - dequantized|_p with p < 1 forgives outliers. It is split into a shrinkage of the error
and a closed form for the zero point, which alternate.
"""

from __future__ import annotations

import numpy as np

from ttt_quant.rtn import asymmetric_scales, in_blocks, round_with
from ttt_quant.scheme import BlockQuantized, Float32Array, Scheme, code_range

STEPS = 20
NORM = 0.7
START_WEIGHT = 10.0  # beta: how strongly the split error is tied to the true one
GROWTH = 1.01


def _shrink(error: Float32Array, weight: float) -> Float32Array:
    """Return the minimizer of |e|_p + weight/2 (e - error)^2, in its usual approximation."""
    size = np.abs(error)
    threshold = np.power(np.maximum(size, 1e-8), NORM - 1) / weight
    shrunk: Float32Array = np.sign(error) * np.maximum(size - threshold, 0)
    return shrunk


def quantize_hqq(weight: Float32Array, scheme: Scheme) -> BlockQuantized:
    """Quantize W [K, N] with zero points; the scheme must be fitted to K."""
    low, high = code_range(scheme.bits)
    blocks = in_blocks(weight, scheme.block)  # [K / block, block, N]
    scales, start = asymmetric_scales(weight, scheme.bits, scheme.block)
    scale = scales[:, None, :]
    zero = start[:, None, :].astype(np.float32)
    # The weights' own unit, so that the shrinkage means the same for every matrix.
    unit = float(np.abs(weight).mean()) or 1.0
    best, least = zero, np.full(zero.shape, np.inf, np.float32)
    beta = START_WEIGHT
    for _ in range(STEPS):
        codes = np.clip(np.rint(blocks / scale + zero), low, high)
        error = (blocks - (codes - zero) * scale) / np.float32(unit)
        loss = np.power(np.abs(error), NORM).mean(axis=1, keepdims=True)
        better = loss < least
        best, least = np.where(better, zero, best), np.where(better, loss, least)
        split = _shrink(error, beta) * np.float32(unit)
        zero = (codes - (blocks - split) / scale).mean(axis=1, keepdims=True)
        zero = np.clip(np.rint(zero), low, high)  # engines store whole zero points
        beta *= GROWTH
    zeros = best[:, 0, :].astype(np.int8)
    return round_with(weight, scales, zeros, scheme.bits, scheme.block)
