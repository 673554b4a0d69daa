"""Windowed-sinc resampling as the released tokenizer does it.

The band limit is 0.99 of the lower Nyquist frequency, the window a Hann of six zero crossings a
side; the kernel is computed in float64 and applied in float32.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from ttt_ref.errors import AudioError

ZERO_CROSSINGS = 6
ROLLOFF = 0.99
MAX_KERNEL = 1 << 23


@cache
def _kernel(old: int, new: int) -> tuple[Tensor, int]:
    """Return the filters float32 [new, 1, 2 width + old] and the half width in input samples."""
    cutoff = min(old, new) * ROLLOFF
    width = math.ceil(ZERO_CROSSINGS * old / cutoff)
    taps = torch.arange(-width, width + old, dtype=torch.float64) / old
    phases = torch.arange(0, -new, -1, dtype=torch.float64) / new
    t = ((phases[:, None] + taps[None, :]) * cutoff).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
    window = torch.cos(t * (math.pi / (2 * ZERO_CROSSINGS))).square()
    return (torch.sinc(t) * window * (cutoff / old)).float()[:, None], width


def resample(audio: Tensor, rate_hz: int, new_rate_hz: int = 16_000) -> Tensor:
    """Return audio [T] at another rate: [ceil(T * new / old)]."""
    if not 1_000 <= rate_hz <= 384_000:
        raise AudioError(f"a sample rate of {rate_hz} Hz; expected 1000 to 384000")
    if rate_hz == new_rate_hz or not len(audio):
        return audio
    common = math.gcd(rate_hz, new_rate_hz)
    old, new = rate_hz // common, new_rate_hz // common
    if old * new > MAX_KERNEL:
        raise AudioError(
            f"a sample rate of {rate_hz} Hz has no simple ratio to {new_rate_hz} Hz; "
            "resample the audio first"
        )
    kernel, width = _kernel(old, new)
    padded = torch.nn.functional.pad(audio.float(), (width, width + old))
    out = torch.nn.functional.conv1d(padded[None, None], kernel, stride=old)[0]  # [new, blocks]
    return out.T.reshape(-1)[: math.ceil(len(audio) * new / old)]
