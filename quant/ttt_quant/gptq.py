"""GPTQ: round input channels one after the other, later ones make up for the error of earlier.

After Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers" (ICLR 2023), with one scale a block of input channels.
"""

from __future__ import annotations

import numpy as np

from ttt_quant.activations import Activations
from ttt_quant.rtn import asymmetric_scales, symmetric_scales
from ttt_quant.scheme import BlockQuantized, Float32Array, Scheme, code_range


def quantize_gptq(weight: Float32Array, scheme: Scheme, seen: Activations) -> BlockQuantized:
    """Quantize W [K, N] for inputs like those seen; the scheme must be fitted to K.

    Args:
        weight: W [K, N].
        scheme: bits, block and symmetry.
        seen: the inputs that calibration met.
    """
    low, high = code_range(scheme.bits)
    factor = seen.inverse_factor  # U, upper triangular
    left = weight.astype(np.float32, copy=True)
    codes = np.empty(weight.shape, np.int8)
    all_scales, all_zeros = [], []
    for start in range(0, weight.shape[0], scheme.block):
        stop = start + scheme.block
        part = left[start:stop]
        zeros = None
        if scheme.symmetric:
            scales = symmetric_scales(part, scheme.bits, scheme.block)
        else:
            scales, zeros = asymmetric_scales(part, scheme.bits, scheme.block)
            all_zeros.append(zeros)
        all_scales.append(scales)
        shift = np.float32(0) if zeros is None else zeros[0].astype(np.float32)
        errors = np.empty(part.shape, np.float32)
        for row in range(scheme.block):
            k = start + row
            code = np.clip(np.rint(part[row] / scales[0] + shift), low, high)
            codes[k] = code
            errors[row] = (part[row] - (code - shift) * scales[0]) / factor[k, k]
            part[row + 1 :] -= factor[k, k + 1 : stop, None] * errors[row]
        left[stop:] -= factor[start:stop, stop:].T @ errors
    zeros = np.concatenate(all_zeros) if all_zeros else None
    return BlockQuantized(codes, np.concatenate(all_scales), zeros, scheme.bits, scheme.block)
