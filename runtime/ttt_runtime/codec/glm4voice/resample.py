"""Bring audio to 16 kHz as the released tokenizer does: channel 0, windowed sinc.

Other codecs' input is mixed and resampled with soxr, which gives slightly other tokens. Rates
without a simple ratio to 16 kHz would need a huge kernel and go through soxr here.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import soxr
from numpy.typing import NDArray

from ttt_ref.errors import AudioError

ZERO_CROSSINGS = 6
ROLLOFF = 0.99
MAX_KERNEL = 1 << 23
BLOCKS_AT_ONCE = 4096

Float32 = NDArray[np.float32]


@lru_cache(maxsize=4)
def _kernel(old: int, new: int) -> tuple[Float32, int]:
    """Return the filters [2 width + old, new] and the half width in input samples."""
    cutoff = min(old, new) * ROLLOFF
    width = math.ceil(ZERO_CROSSINGS * old / cutoff)
    taps = np.arange(-width, width + old) / old
    phases = np.arange(0, -new, -1) / new
    t = ((phases[:, None] + taps[None, :]) * cutoff).clip(-ZERO_CROSSINGS, ZERO_CROSSINGS)
    window = np.square(np.cos(t * (math.pi / (2 * ZERO_CROSSINGS))))
    kernel = (np.sinc(t) * window * (cutoff / old)).astype(np.float32)
    return np.ascontiguousarray(kernel.T), width


def resample(audio: Float32, rate_hz: int, new_rate_hz: int = 16_000) -> Float32:
    """Return audio [T] at another rate: [ceil(T * new / old)]."""
    if not 1_000 <= rate_hz <= 768_000:
        raise AudioError(f"a sample rate of {rate_hz} Hz; expected 1000 to 768000")
    if rate_hz == new_rate_hz or not len(audio):
        return audio
    common = math.gcd(rate_hz, new_rate_hz)
    old, new = rate_hz // common, new_rate_hz // common
    if new * (old + 2 * math.ceil(ZERO_CROSSINGS * max(1.0, old / new) / ROLLOFF)) > MAX_KERNEL:
        made: Float32 = soxr.resample(audio, rate_hz, new_rate_hz).astype(np.float32)
        return made
    kernel, width = _kernel(old, new)
    padded = np.pad(audio.astype(np.float32), (width, width + old))
    frames = np.lib.stride_tricks.sliding_window_view(padded, len(kernel))[::old]
    parts = [
        (frames[a : a + BLOCKS_AT_ONCE] @ kernel).reshape(-1)
        for a in range(0, len(frames), BLOCKS_AT_ONCE)
    ]
    return np.concatenate(parts)[: math.ceil(len(audio) * new / old)]


def released_input(audio: Float32, rate_hz: int) -> Float32:
    """Return what the released tokenizer hears of audio [T] or [T, channels]: 16 kHz [T]."""
    if audio.ndim not in (1, 2):
        raise AudioError(f"audio of shape {list(audio.shape)}; expected [T] or [T, channels]")
    first = audio if audio.ndim == 1 else np.ascontiguousarray(audio[:, 0])
    return resample(first, rate_hz)
