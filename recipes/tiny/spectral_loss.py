"""Spectral distances between two waveforms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ttt_ref.codec.builtin.config import TokenizerConfig
from ttt_ref.codec.builtin.features import mel_filters

SIZES = (256, 512, 1024, 2048)


class SpectralLoss(nn.Module):
    """Log-magnitude L1 and spectral convergence at four resolutions, log-mel L1 at one."""

    def __init__(self) -> None:
        super().__init__()
        for size in SIZES:
            self.register_buffer(f"window{size}", torch.hann_window(size), persistent=False)
        config = TokenizerConfig(
            fft_samples=1024, window_samples=1024, hop_samples=256, pad_samples=0
        )
        self.register_buffer("filters", mel_filters(config), persistent=False)
        self.filters: Tensor

    def magnitude(self, audio: Tensor, size: int) -> Tensor:
        """[B, T] -> [B, frames, bins] at a hop of a quarter window."""
        window: Tensor = getattr(self, f"window{size}")
        frames = nn.functional.pad(audio, (size // 2, size // 2)).unfold(1, size, size // 4)
        spectrum = torch.fft.rfft(frames * window)
        return torch.sqrt(spectrum.real.square() + spectrum.imag.square() + 1e-6)

    def forward(self, made: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T] twice -> (STFT distance, mel distance), scalars."""
        stft = made.new_zeros(())
        mel = made.new_zeros(())
        for size in SIZES:
            a, b = self.magnitude(made, size), self.magnitude(wanted, size)
            stft = stft + (torch.log(a) - torch.log(b)).abs().mean()
            stft = stft + 0.5 * torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b)
            if size == 1024:
                mel = (
                    (torch.log(a @ self.filters + 1e-3) - torch.log(b @ self.filters + 1e-3))
                    .abs()
                    .mean()
                )
        return stft / len(SIZES), mel
