"""Half-quadratic quantization: scales and zero points found without any calibration data.

After Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models" (2023): the
error |W - dequantized|_p with p < 1 forgives outliers. It is split into a shrinkage of the error
and a closed form, which alternate. The paper solves for a real zero point; engines store whole
ones, and a whole one hardly ever moves, so here the closed form is that of the scale, from
several starting ranges.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ttt_quant.rtn import TINY_SCALE, asymmetric_scales, in_blocks, round_with
from ttt_quant.scheme import BlockQuantized, Float32Array, Scheme, code_range

STARTS = (1.0, 0.95, 0.9)  # shares of the full range; a shorter one costs more than it gives
STEPS = 4
NORM = 0.7
START_WEIGHT = 10.0  # beta: how strongly the split error is tied to the true one
GROWTH = 2.0


def _shrink(error: Float32Array, weight: float) -> Float32Array:
    """Return about the minimizer of |e|_p + weight/2 (e - error)^2."""
    size = np.abs(error)
    threshold = np.power(np.maximum(size, 1e-8), NORM - 1) / np.float32(weight)
    shrunk: Float32Array = np.sign(error) * np.maximum(size - threshold, 0)
    return shrunk


def _codes(
    blocks: Float32Array, scale: Float32Array, zero: Float32Array, bits: int
) -> Float32Array:
    low, high = code_range(bits)
    codes: Float32Array = np.clip(np.rint(blocks / scale + zero), low, high)
    return codes


def quantize_hqq(weight: Float32Array, scheme: Scheme) -> BlockQuantized:
    """Quantize W [K, N] with zero points; the scheme must be fitted to K."""
    low, high = code_range(scheme.bits)
    blocks = in_blocks(weight, scheme.block)  # [K / block, block, N]
    # The weights' own unit, so that the shrinkage means the same for every matrix.
    unit = np.float32(np.abs(weight).mean()) or np.float32(1)
    full = asymmetric_scales(weight, scheme.bits, scheme.block)[0][:, None, :]
    middle = (blocks.max(axis=1, keepdims=True) + blocks.min(axis=1, keepdims=True)) / 2
    best_scale = full
    best_zero = np.zeros_like(full)
    least = np.full(full.shape, np.inf, np.float32)
    for start in STARTS:
        scale = full * np.float32(start)
        zero = np.clip(np.rint((low + high + 1) / 2 - middle / scale), low, high)
        beta = START_WEIGHT
        for _ in range(STEPS):
            centred = _codes(blocks, scale, zero, scheme.bits) - zero
            error = (blocks - centred * scale) / unit
            loss = np.power(np.abs(error), NORM).mean(axis=1, keepdims=True)
            better = loss < least
            best_scale, best_zero = (
                np.where(better, scale, best_scale),
                np.where(better, zero, best_zero),
            )
            least = np.where(better, loss, least)
            target = blocks - _shrink(error, beta) * unit
            power = np.square(centred).sum(axis=1, keepdims=True)
            fitted = (target * centred).sum(axis=1, keepdims=True) / np.maximum(power, 1)
            scale = np.maximum(fitted, TINY_SCALE).astype(np.float32)
            beta *= GROWTH
    zeros: NDArray[np.int8] = best_zero[:, 0, :].astype(np.int8)
    scales = best_scale[:, 0, :].astype(np.float32)
    return round_with(weight, scales, zeros, scheme.bits, scheme.block)
