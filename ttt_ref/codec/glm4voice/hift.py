"""The HiFT vocoder: log-mel frames to 22.05 kHz audio.

A small network guesses the fundamental, :mod:`hift_source` turns it into an excitation, and a
generator shapes that into the magnitudes and phases of a 16-point Fourier transform.

Axis letters: B batch (1), F mel frames, T samples (T = 256 F), L spectrum steps (L = 64 F + 1),
C channels. Parameter names are those of the released `hift.pt` with weight norm folded in.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ttt_ref.codec.glm4voice.config import HiftConfig
from ttt_ref.codec.glm4voice.hift_source import HarmonicSource
from ttt_ref.codec.glm4voice.istft import (
    BINS,
    analysis_kernel,
    envelope_kernel,
    istft,
    stft,
    synthesis_kernel,
)
from ttt_ref.codec.glm4voice.noise import Noise

SLOPE = 0.1
LAST_SLOPE = 0.01  # upstream's last activation falls back to the default slope
MAX_MAGNITUDE = 100.0
AUDIO_LIMIT = 0.99
DILATIONS = (1, 3, 5)


class F0Predictor(nn.Module):
    """Fundamental frequency of each frame from the mel."""

    def __init__(self, config: HiftConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = config.mel_bins
        for _ in range(5):
            layers += [nn.Conv1d(inputs, config.f0_channels, 3, padding=1), nn.ELU()]
            inputs = config.f0_channels
        self.condnet = nn.Sequential(*layers)
        self.classifier = nn.Linear(config.f0_channels, 1)

    def forward(self, mel: Tensor) -> Tensor:
        """[B, 80, F] to Hz [B, F]."""
        out: Tensor = self.classifier(self.condnet(mel).transpose(1, 2)).squeeze(-1).abs()
        return out


class Snake(nn.Module):
    """x + sin^2(alpha x) / alpha, one alpha a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, L] to [B, C, L]."""
        alpha = self.alpha[None, :, None]
        return x + torch.sin(alpha * x).square() / (alpha + 1e-9)


class SnakeBlock(nn.Module):
    """Three residual pairs of a dilated and a plain convolution with Snake before each."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=d, padding=(kernel - 1) * d // 2)
            for d in DILATIONS
        )
        self.convs2 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, padding=(kernel - 1) // 2) for _ in DILATIONS
        )
        self.activations1 = nn.ModuleList(Snake(channels) for _ in DILATIONS)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in DILATIONS)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, L] to [B, C, L]."""
        for conv1, conv2, act1, act2 in zip(
            self.convs1, self.convs2, self.activations1, self.activations2, strict=True
        ):
            x = x + conv2(act2(conv1(act1(x))))
        return x


class Hift(nn.Module):
    """The vocoder."""

    analysis: Tensor
    synthesis: Tensor
    envelope: Tensor

    def __init__(self, config: HiftConfig) -> None:
        super().__init__()
        self.config = config
        full, half, quarter = config.channels, config.channels // 2, config.channels // 4
        self.m_source = HarmonicSource(config)
        self.conv_pre = nn.Conv1d(config.mel_bins, full, 7, padding=3)
        self.ups = nn.ModuleList(
            nn.ConvTranspose1d(i, o, 16, stride=8, padding=4)
            for i, o in ((full, half), (half, quarter))
        )
        self.source_downs = nn.ModuleList(
            [
                nn.Conv1d(2 * BINS, half, 16, stride=8, padding=4),
                nn.Conv1d(2 * BINS, quarter, 1),
            ]
        )
        self.source_resblocks = nn.ModuleList([SnakeBlock(half, 7), SnakeBlock(quarter, 11)])
        self.resblocks = nn.ModuleList(
            SnakeBlock(c, k) for c in (half, quarter) for k in (3, 7, 11)
        )
        self.conv_post = nn.Conv1d(quarter, 2 * BINS, 7, padding=3)
        self.f0_predictor = F0Predictor(config)
        self.register_buffer("analysis", analysis_kernel(), persistent=False)
        self.register_buffer("synthesis", synthesis_kernel(), persistent=False)
        self.register_buffer("envelope", envelope_kernel(), persistent=False)

    def spectrum(self, mel: Tensor, source: Tensor) -> Tensor:
        """Return 9 log magnitudes and 9 phase arguments [1, 18, L].

        Args:
            mel: [1, 80, F].
            source: excitation [1, 1, T].
        """
        harmonics = stft(source, self.analysis)
        x = self.conv_pre(mel)
        for stage in range(2):
            x = self.ups[stage](functional.leaky_relu(x, SLOPE))
            if stage == 1:
                x = functional.pad(x, (1, 0), mode="reflect")
            x = x + self.source_resblocks[stage](self.source_downs[stage](harmonics))
            three = [block(x) for block in self.resblocks[3 * stage : 3 * stage + 3]]
            x = (three[0] + three[1] + three[2]) / 3
        out: Tensor = self.conv_post(functional.leaky_relu(x, LAST_SLOPE))
        return out

    def generate(self, mel: Tensor, source: Tensor) -> Tensor:
        """Return audio [1, T] from the mel [1, 80, F] and its excitation [1, 1, T]."""
        spectrum = self.spectrum(mel, source)
        magnitude = spectrum[:, :BINS].exp().clamp(max=MAX_MAGNITUDE)
        phase = spectrum[:, BINS:].sin()
        parts = torch.cat((magnitude * phase.cos(), magnitude * phase.sin()), 1)
        audio = istft(parts, self.synthesis, self.envelope)
        return audio[:, 0].clamp(-AUDIO_LIMIT, AUDIO_LIMIT)

    def forward(
        self,
        mel: Tensor,
        phases: Tensor,
        noise: Noise,
        cache_source: Tensor | None = None,
        f0: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Vocode a whole mel as the released code does.

        Args:
            mel: [1, 80, F].
            phases: start phases in radians [9].
            noise: noise of the harmonics.
            cache_source: excitation [1, 1, t] that replaces the first t samples.
            f0: Hz a frame [1, F]; predicted from the mel when left out.

        Returns:
            audio [1, T] and excitation [1, 1, T].
        """
        f0 = self.f0_predictor(mel) if f0 is None else f0
        start = self.m_source.start(phases)
        source, _ = self.m_source(f0[0], start, noise, released_rounding=True)
        if cache_source is not None:
            kept = cache_source.shape[2]
            source = torch.cat((cache_source, source[:, :, kept:]), 2)
        return self.generate(mel, source), source
