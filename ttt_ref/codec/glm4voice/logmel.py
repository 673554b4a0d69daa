"""Log-mel features: Whisper's for the speech tokenizer, natural-log ones for the decoder.

Both are computed in float32, as the released code does; float64 audio is computed in float64,
which differs by up to 3e-5 in cells near the floor.

Axis letters: T samples, F frames, M mel bins, K frequency bins.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

N_FFT = 400
HOP = 160
POWER_FLOOR = 1e-10
RANGE_LOG10 = 8.0  # 80 dB below the loudest cell of the segment

PROMPT_N_FFT = 1024
PROMPT_HOP = 256
PROMPT_PAD = (PROMPT_N_FFT - PROMPT_HOP) // 2


def _hz_to_mel(hz: Tensor) -> Tensor:
    """Slaney's scale: linear below 1 kHz (15 mel), logarithmic above (27 mel an octave-ish)."""
    log_step = math.log(6.4) / 27.0
    linear = hz * 3.0 / 200.0
    return torch.where(hz < 1000.0, linear, 15.0 + torch.log(hz.clamp(min=1.0) / 1000.0) / log_step)


def _mel_to_hz(mel: Tensor) -> Tensor:
    log_step = math.log(6.4) / 27.0
    return torch.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * torch.exp(log_step * (mel - 15.0)))


@cache
def slaney_filters(rate_hz: int, n_fft: int, bins: int, top_hz: float) -> Tensor:
    """Return triangular mel filters of equal area, float64 [M, K]."""
    limits = _hz_to_mel(torch.tensor([0.0, top_hz], dtype=torch.float64))
    edges = _mel_to_hz(torch.linspace(0, 1, bins + 2, dtype=torch.float64) * limits[1])
    freqs = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * (rate_hz / n_fft)
    width = edges[1:] - edges[:-1]
    slopes = edges[:, None] - freqs[None, :]  # [M + 2, K]
    rising = -slopes[:-2] / width[:-1, None]
    falling = slopes[2:] / width[1:, None]
    triangles = torch.minimum(rising, falling).clamp(min=0.0)
    return triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]


def _power(frames: Tensor, n_fft: int) -> Tensor:
    """Return the Hann-windowed power spectrum [.., F, K] of frames [.., F, n_fft]."""
    window = torch.hann_window(n_fft, periodic=True, dtype=frames.dtype)
    spectrum = torch.fft.rfft(frames * window)
    out: Tensor = spectrum.real.square() + spectrum.imag.square()
    return out


def log10_mel(audio: Tensor, bins: int = 128) -> Tensor:
    """Return log10 mel power before range limiting.

    Args:
        audio: 16 kHz [T], T a multiple of 160 and > 200 (the edges are reflected).

    Returns:
        [M, F] of the audio's dtype with F = T / 160; frame j is centred on sample 160 j.
    """
    padded = torch.nn.functional.pad(audio[None, None], (N_FFT // 2, N_FFT // 2), mode="reflect")[
        0, 0
    ]
    frames = padded.unfold(0, N_FFT, HOP)[:-1]  # Whisper drops the last frame
    power = _power(frames, N_FFT) @ slaney_filters(16_000, N_FFT, bins, 8000.0).T.to(audio.dtype)
    return power.clamp(min=POWER_FLOOR).log10().T


def limit_range(log10: Tensor, peak: float | None = None) -> Tensor:
    """Clamp to 80 dB below `peak` (default: the loudest cell) and scale; float32, same shape."""
    top = float(log10.max()) if peak is None else peak
    return ((log10.clamp(min=top - RANGE_LOG10) + 4.0) / 4.0).float()


def whisper_log_mel(audio: Tensor, bins: int = 128) -> Tensor:
    """Return Whisper's features float32 [M, F] of one segment [T]; see :func:`log10_mel`."""
    return limit_range(log10_mel(audio, bins))


def prompt_log_mel(audio: Tensor) -> Tensor:
    """Return the decoder's own log-mel of 22.05 kHz audio [T]: float32 [80, F], F = T // 256.

    Natural logarithm of magnitude, 80 bins up to 8 kHz; what the flow writes and the vocoder reads.
    """
    padded = torch.nn.functional.pad(audio[None, None], (PROMPT_PAD, PROMPT_PAD), mode="reflect")[
        0, 0
    ]
    frames = padded.unfold(0, PROMPT_N_FFT, PROMPT_HOP)
    magnitude = (_power(frames, PROMPT_N_FFT) + 1e-9).sqrt()
    mel = magnitude @ slaney_filters(22_050, PROMPT_N_FFT, 80, 8000.0).T.to(audio.dtype)
    return mel.clamp(min=1e-5).log().T.float()
