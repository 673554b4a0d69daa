"""The vocoder's excitation in numpy: harmonics of the fundamental plus noise.

The phase is a sum over all samples since the beginning, in float64 and modulo one cycle: as exact
after an hour as after a second.

Axis letters: F mel frames, T samples (T = 256 F), N harmonics (the fundamental first).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ttt_runtime.codec.glm4voice.noise import Noise
from ttt_runtime.codec.glm4voice.params import DecoderParams
from ttt_runtime.codec.glm4voice.timing import HOP, RATE_HZ

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class SourceState:
    """Where the oscillators stand: cycles [N] reached, and the next sample's number."""

    cycles: NDArray[np.float64]
    sample: int = 0


class HarmonicSource:
    """Fundamental frequency to excitation."""

    def __init__(self, params: DecoderParams) -> None:
        self._params = params
        self._weight = np.array(params.source_weight, np.float32)
        self._multiples = np.arange(1, params.harmonics + 2, dtype=np.float32)

    def start(self, phases: NDArray[np.float64]) -> SourceState:
        """Return the state before the first sample, from phases in radians [N]."""
        return SourceState(np.asarray(phases, np.float64) / (2 * np.pi))

    def run(self, f0: Float32, state: SourceState, noise: Noise) -> tuple[Float32, SourceState]:
        """Run on for F frames.

        Args:
            f0: Hz a frame [F].
            state: from :meth:`start`, or what the last call returned.
            noise: of the harmonics by sample number, [N, T].

        Returns:
            the excitation [T] and the state after it.
        """
        params = self._params
        if not len(f0):
            return np.zeros(0, np.float32), state
        hz = np.repeat(f0.astype(np.float32), HOP)
        step = hz[None] * self._multiples[:, None] / np.float32(RATE_HZ)  # rounded as upstream
        turns = state.cycles[:, None] + np.cumsum(step, axis=1, dtype=np.float64)
        turns -= np.floor(turns)
        # Below one turn, float32 is exact enough for the sine itself.
        angle = ((turns - 0.5) * (2 * np.pi)).astype(np.float32)
        sines = np.float32(-params.sine_amplitude) * np.sin(angle)
        voiced = (hz > params.voiced_threshold_hz).astype(np.float32)
        sigma = voiced * params.noise_sigma + (1 - voiced) * (params.sine_amplitude / 3)
        mixed = sines * voiced + sigma.astype(np.float32) * noise(state.sample, len(hz))
        source = np.tanh(self._weight @ mixed + np.float32(params.source_bias))
        return source.astype(np.float32), SourceState(turns[:, -1], state.sample + len(hz))
