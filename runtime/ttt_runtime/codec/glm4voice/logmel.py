"""Whisper's log-mel features in numpy, computed in float64 and rounded once.

Axis letters: T samples, F frames of 10 ms, M mel bins, K frequency bins.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16_000
N_FFT = 400
HOP = 160
TOP_HZ = 8_000.0
POWER_FLOOR = 1e-10
RANGE_LOG10 = 8.0  # 80 dB below the loudest cell of the segment

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


def _mel_to_hz(mel: Float64) -> Float64:
    """Slaney's scale backwards: linear up to 1 kHz (15 mel), then logarithmic."""
    log_step = math.log(6.4) / 27.0
    return np.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * np.exp(log_step * (mel - 15.0)))


@cache
def slaney_filters(bins: int) -> Float64:
    """Return triangular mel filters of equal area up to 8 kHz, [K, M]."""
    top = 15.0 + math.log(TOP_HZ / 1000.0) * 27.0 / math.log(6.4)
    edges = _mel_to_hz(np.linspace(0.0, top, bins + 2))
    freqs = np.arange(N_FFT // 2 + 1) * (RATE_HZ / N_FFT)
    slopes = edges[:, None] - freqs[None, :]
    width = np.diff(edges)
    triangles = np.minimum(-slopes[:-2] / width[:-1, None], slopes[2:] / width[1:, None])
    scaled: Float64 = np.maximum(triangles, 0.0) * (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return np.ascontiguousarray(scaled.T)


@cache
def _window() -> Float64:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)


def log10_mel(audio: Float32, bins: int) -> Float64:
    """Return log10 mel power before range limiting.

    Args:
        audio: 16 kHz float32 [T], T a multiple of 160 and > 200 (the edges are reflected).
        bins: mel bins.

    Returns:
        float64 [M, F] with F = T / 160; frame j is centred on sample 160 j.
    """
    padded = np.pad(audio.astype(np.float64), N_FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP][:-1]
    spectrum = np.fft.rfft(frames * _window(), axis=1)
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    mel: Float64 = np.log10(np.maximum(power @ slaney_filters(bins), POWER_FLOOR)).T
    return mel


def limit_range(log10: Float64, peak: float) -> Float32:
    """Clamp to 80 dB below `peak` and scale; float32, same shape."""
    limited: Float32 = ((np.maximum(log10, peak - RANGE_LOG10) + 4.0) / 4.0).astype(np.float32)
    return limited
