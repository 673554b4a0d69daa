"""The vocoder's excitation: nine harmonics of the fundamental plus noise.

The phase is a sum over every sample since the beginning of the sound. It is accumulated in
float64 and kept modulo one cycle, so that it is as exact after ten minutes as after one second,
and a stream carries it over in nine numbers.

Axis letters: F mel frames, T samples (T = 256 F), N harmonics (the fundamental first).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ttt_ref.codec.glm4voice.config import DECODER_HOP, DECODER_RATE_HZ, HiftConfig
from ttt_ref.codec.glm4voice.noise import Noise


@dataclass(frozen=True)
class SourceState:
    """Where the oscillators stand: cycles [N] float64 reached, and the next sample's number."""

    cycles: Tensor
    sample: int = 0


class HarmonicSource(nn.Module):
    """Fundamental frequency to excitation."""

    def __init__(self, config: HiftConfig) -> None:
        super().__init__()
        self.config = config
        self.l_linear = nn.Linear(config.harmonics + 1, 1)

    def start(self, phases: Tensor) -> SourceState:
        """Return the state before the first sample, from phases in radians [N]."""
        return SourceState(phases.double() / (2 * math.pi))

    def forward(
        self, f0: Tensor, state: SourceState, noise: Noise, *, released_rounding: bool = False
    ) -> tuple[Tensor, SourceState]:
        """Run on.

        Args:
            f0: Hz a frame [F].
            state: from :meth:`start`, or what the last call returned.
            noise: of the harmonics by sample number, [N, T].
            released_rounding: store the running sum in float32 as upstream does, which is off
                by a thousandth of a cycle after ten seconds; only right after :meth:`start`.

        Returns:
            the excitation [1, 1, T] and the state after it.
        """
        config = self.config
        hz = f0.repeat_interleave(DECODER_HOP)  # [T]
        multiples = torch.arange(1, config.harmonics + 2, dtype=torch.float32, device=f0.device)
        # The product is rounded to float32 as upstream does; the sum is exact.
        step = (hz[None] * multiples[:, None] / DECODER_RATE_HZ).double()
        start = state.cycles.to(f0.device)[:, None]
        if released_rounding:
            turns = step.cumsum(1).float() % 1.0 + start.float()
        else:
            turns = (start + step.cumsum(1)) % 1.0
        sines = config.sine_amplitude * torch.sin(2 * math.pi * turns).float()
        voiced = (hz > config.voiced_threshold_hz).float()
        sigma = voiced * config.noise_sigma + (1 - voiced) * config.sine_amplitude / 3
        mixed = sines * voiced + sigma * noise(state.sample, len(hz)).to(f0)
        source = torch.tanh(self.l_linear(mixed.T)).T[None]
        if len(hz):
            state = SourceState(turns[:, -1].double(), state.sample + len(hz))
        return source, state
