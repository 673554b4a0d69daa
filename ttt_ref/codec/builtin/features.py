"""Log-mel features with fixed framing and no utterance-level normalisation.

Frame ``i`` is centred on sample ``i * hop + hop / 2``, so that four frames stand for exactly one
speech token and a frame looks (window - hop) / 2 samples beyond its hop.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from ttt_ref.codec.builtin.config import TokenizerConfig

POWER_FLOOR = 1e-5
LOG_CENTRE, LOG_SPREAD = -3.0, 4.0


def hz_to_mel(hz: float) -> float:
    """HTK mel scale."""
    return float(2595.0 * math.log10(1.0 + hz / 700.0))


def mel_to_hz(mel: float) -> float:
    """Inverse of :func:`hz_to_mel`."""
    return float(700.0 * (10.0 ** (mel / 2595.0) - 1.0))


def mel_filters(config: TokenizerConfig, low_hz: float = 40.0) -> Tensor:
    """Triangular mel filters [fft / 2 + 1, mel_bins], float32, each with the peak 1."""
    top_hz = config.sample_rate_hz / 2
    edges = np.linspace(hz_to_mel(low_hz), hz_to_mel(top_hz), config.mel_bins + 2)
    edges_hz = np.array([mel_to_hz(float(m)) for m in edges])
    bins_hz = np.arange(config.fft_samples // 2 + 1) * config.sample_rate_hz / config.fft_samples
    # The lowest triangles are narrower than one FFT bin: widen them so that none is empty.
    spacing_hz = config.sample_rate_hz / config.fft_samples
    left, centre, right = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    left = np.minimum(left, centre - spacing_hz)
    right = np.maximum(right, centre + spacing_hz)
    rise = (bins_hz[:, None] - left) / (centre - left)
    fall = (right - bins_hz[:, None]) / (right - centre)
    return torch.from_numpy(np.clip(np.minimum(rise, fall), 0.0, 1.0).astype(np.float32))


class LogMel(nn.Module):
    """Audio [B, T] at 16 kHz, T a whole number of tokens -> log-mel [B, 4 S, mel_bins]."""

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        self.config = config
        self.register_buffer("filters", mel_filters(config), persistent=False)
        window = torch.hann_window(config.window_samples, periodic=True)
        self.register_buffer("window", window, persistent=False)
        self.filters: Tensor
        self.window: Tensor

    @property
    def side_samples(self) -> int:
        """Samples that the first frame reaches before, and the last one beyond, its own hop."""
        return (self.config.window_samples - self.config.hop_samples) // 2

    def forward(self, audio: Tensor) -> Tensor:
        """[B, T] -> [B, T / hop, mel_bins]; audio outside [0, T) counts as zero."""
        c = self.config
        audio = torch.nn.functional.pad(audio, (self.side_samples, self.side_samples))
        frames = audio.unfold(1, c.window_samples, c.hop_samples) * self.window
        spectrum = torch.fft.rfft(frames, n=c.fft_samples)
        power = spectrum.real.square() + spectrum.imag.square()
        log = torch.log(power @ self.filters + POWER_FLOOR)
        return (log - LOG_CENTRE) / LOG_SPREAD
