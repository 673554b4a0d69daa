"""Round to nearest: the plainest quantizer, and the last step of all others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ttt_quant.scheme import BlockQuantized, Float32Array, Scheme, code_range

# A block of zeros still needs a scale that can be divided by.
TINY_SCALE = np.float32(1e-12)


def in_blocks(weight: Float32Array, block: int) -> Float32Array:
    """View W [K, N] as [K / block, block, N]."""
    return weight.reshape(weight.shape[0] // block, block, weight.shape[1])


def symmetric_scales(weight: Float32Array, bits: int, block: int) -> Float32Array:
    """Return scales [K / block, N] that map the largest magnitude to the largest code."""
    _, largest = code_range(bits)
    peak = np.abs(in_blocks(weight, block)).max(axis=1)
    scales: Float32Array = np.maximum(peak / np.float32(largest), TINY_SCALE).astype(np.float32)
    return scales


def asymmetric_scales(
    weight: Float32Array, bits: int, block: int
) -> tuple[Float32Array, NDArray[np.int8]]:
    """Return scales and zero points [K / block, N] that cover each block's whole range."""
    low, high = code_range(bits)
    blocks = in_blocks(weight, block)
    # 0 stays exactly representable, as engines expect of a zero point.
    smallest = np.minimum(blocks.min(axis=1), 0)
    largest = np.maximum(blocks.max(axis=1), 0)
    scales = np.maximum((largest - smallest) / np.float32(high - low), TINY_SCALE)
    zeros = np.clip(np.rint(low - smallest / scales), low, high).astype(np.int8)
    return scales.astype(np.float32), zeros


def round_with(
    weight: Float32Array,
    scales: Float32Array,
    zeros: NDArray[np.int8] | None,
    bits: int,
    block: int,
) -> BlockQuantized:
    """Round W [K, N] to the nearest codes of given scales and zero points."""
    low, high = code_range(bits)
    codes = np.rint(in_blocks(weight, block) / scales[:, None, :])
    if zeros is not None:
        codes += zeros[:, None, :]
    clipped = np.clip(codes, low, high).astype(np.int8).reshape(weight.shape)
    return BlockQuantized(clipped, scales, zeros, bits, block)


def quantize_rtn(weight: Float32Array, scheme: Scheme) -> BlockQuantized:
    """Quantize W [K, N]; the scheme must be fitted to K."""
    if scheme.symmetric:
        scales = symmetric_scales(weight, scheme.bits, scheme.block)
        return round_with(weight, scales, None, scheme.bits, scheme.block)
    scales, zeros = asymmetric_scales(weight, scheme.bits, scheme.block)
    return round_with(weight, scales, zeros, scheme.bits, scheme.block)
