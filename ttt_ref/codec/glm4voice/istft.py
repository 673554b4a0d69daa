"""The vocoder's tiny short-time Fourier transform (16 points, hop 4) as two convolutions.

As convolutions they are exact, need no complex numbers and export to any engine.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

N_FFT = 16
HOP = 4
BINS = N_FFT // 2 + 1


def _window() -> Tensor:
    return torch.hann_window(N_FFT, periodic=True, dtype=torch.float64)


def _angles() -> Tensor:
    bins = torch.arange(BINS, dtype=torch.float64)[:, None]
    return 2 * math.pi / N_FFT * bins * torch.arange(N_FFT, dtype=torch.float64)[None]


def analysis_kernel() -> Tensor:
    """Return the filters [18, 1, 16] that give 9 real and 9 imaginary parts."""
    angles = _angles()
    return (torch.cat((angles.cos(), -angles.sin())) * _window())[:, None].float()


def synthesis_kernel() -> Tensor:
    """Return the transposed filters [18, 1, 16] of 9 real and 9 imaginary parts."""
    angles = _angles()
    weight = torch.full((BINS, 1), 2.0 / N_FFT, dtype=torch.float64)
    weight[0] = weight[-1] = 1.0 / N_FFT
    # The sine of bins 0 and 8 is zero, so their imaginary parts drop out as they must.
    return (torch.cat((angles.cos() * weight, -angles.sin() * weight)) * _window())[:, None].float()


def envelope_kernel() -> Tensor:
    """Return the squared window [1, 1, 16]; its overlapped sum is what synthesis divides by."""
    return _window().square()[None, None].float()


def stft(audio: Tensor, kernel: Tensor) -> Tensor:
    """Return [B, 18, T / 4 + 1] of audio [B, 1, T], centred with reflection."""
    padded = functional.pad(audio, (N_FFT // 2, N_FFT // 2), mode="reflect")
    return functional.conv1d(padded, kernel, stride=HOP)


def istft(spectrum: Tensor, kernel: Tensor, envelope: Tensor) -> Tensor:
    """Return audio [B, 1, 4 (L - 1)] of [B, 18, L], with the true envelope at the edges."""
    summed = functional.conv_transpose1d(spectrum, kernel, stride=HOP)
    weight = functional.conv_transpose1d(torch.ones_like(spectrum[:1, :1]), envelope, stride=HOP)
    half = N_FFT // 2
    return summed[:, :, half:-half] / weight[:, :, half:-half]
