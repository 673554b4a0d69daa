"""The quantization algorithms behind one interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ttt_quant.activations import Activations
from ttt_quant.awq import quantize_clipped
from ttt_quant.gptq import quantize_gptq
from ttt_quant.hqq import quantize_hqq
from ttt_quant.rtn import quantize_rtn
from ttt_quant.scheme import BlockQuantized, Float32Array, Scheme
from ttt_ref.errors import ConfigError

# A quantizer takes W [K, N], a scheme fitted to K, and what calibration saw (or None).
Quantizer = Callable[[Float32Array, Scheme, Activations | None], BlockQuantized]

# Algorithms that look at activations; the others need no calibration.
CALIBRATED = frozenset({"gptq", "awq"})


def _rtn(weight: Float32Array, scheme: Scheme, seen: Activations | None) -> BlockQuantized:
    return quantize_rtn(weight, scheme)


def _clip(weight: Float32Array, scheme: Scheme, seen: Activations | None) -> BlockQuantized:
    return quantize_clipped(weight, scheme, None)


def _hqq(weight: Float32Array, scheme: Scheme, seen: Activations | None) -> BlockQuantized:
    return quantize_hqq(weight, scheme)


def _gptq(weight: Float32Array, scheme: Scheme, seen: Activations | None) -> BlockQuantized:
    if seen is None or not seen.count:
        raise ConfigError("gptq needs activations; calibrate, or choose rtn or hqq")
    return quantize_gptq(weight, scheme, seen)


QUANTIZERS: Mapping[str, Quantizer] = {
    "rtn": _rtn,
    "clip": _clip,
    "hqq": _hqq,
    "gptq": _gptq,
    # The scaling of AWQ rewrites the layer beforehand (see `awq.input_scale`); this is its end.
    "awq": quantize_clipped,
}


def quantize(
    weight: Float32Array, scheme: Scheme, seen: Activations | None = None
) -> BlockQuantized:
    """Quantize W [K, N] by the scheme's algorithm.

    Args:
        weight: float32 [K, N].
        scheme: an integer scheme fitted to K.
        seen: the matrix's inputs, for algorithms in `CALIBRATED`.
    """
    return QUANTIZERS[scheme.algorithm](weight, scheme, seen)
