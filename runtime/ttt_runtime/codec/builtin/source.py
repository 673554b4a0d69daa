"""The decoder's two sources and the frame-by-frame filter between them and the loudspeaker.

Frame ``i`` stands for the samples ``i * hop .. (i + 1) * hop``; its pitch is the pitch at their
end. Its analysis window begins ``lead`` samples earlier and ends with frame ``i + 1``, so a frame
can be rendered as soon as the pitch of the next one is known.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttt_runtime.codec.base import Audio
from ttt_runtime.codec.builtin.params import DecoderParams
from ttt_runtime.codec.builtin.tokenizer import hann

Frames = NDArray[np.float32]


class PulseSource:
    """Band-limited pulses of unit power; keeps its phase from call to call."""

    def __init__(self, params: DecoderParams) -> None:
        self._rate, self._hop = params.sample_rate_hz, params.hop_samples
        self._phase = 0.0
        self._f0: float | None = None
        self._gain = 0.0

    def push(self, f0_hz: Frames, voiced: Frames) -> Audio:
        """Pitch in Hz [F] and voicing 0..1 [F] at the frames' ends -> pulses [F * hop]."""
        if len(f0_hz) == 0:
            return np.zeros(0, np.float32)
        first = float(f0_hz[0]) if self._f0 is None else self._f0
        f0 = self._ramp(first, f0_hz)
        gain = self._ramp(self._gain, voiced)
        self._f0, self._gain = float(f0_hz[-1]), float(voiced[-1])
        angle = self._phase + np.cumsum(f0 * (2 * np.pi / self._rate))
        angle = np.remainder(angle, 2 * np.pi)
        self._phase = float(angle[-1])
        if not gain.any():
            return np.zeros(len(f0), np.float32)
        count = np.floor(self._rate / 2 / np.maximum(f0, 1e-3))
        half = np.sin(angle / 2)
        small = np.abs(half) < 1e-7
        kernel = np.sin((count + 0.5) * angle) / (2 * np.where(small, 1.0, half)) - 0.5
        kernel = np.where(small, count, kernel)
        return (kernel * np.sqrt(2.0 / count) * gain).astype(np.float32)

    def _ramp(self, first: float, ends: Frames) -> NDArray[np.float64]:
        """Straight lines from one frame end to the next: [F] -> [F * hop]."""
        after = ends.astype(np.float64)
        before = np.concatenate([[first], after[:-1]])
        share = np.arange(1, self._hop + 1) / self._hop
        line: NDArray[np.float64] = (before[:, None] + (after - before)[:, None] * share).ravel()
        return line


class FilterBank:
    """Windowed frames of both sources, filtered in the frequency domain and overlap-added."""

    def __init__(self, params: DecoderParams) -> None:
        self._p = params
        self._window = hann(params.fft_samples)
        hops = -(-params.fft_samples // params.hop_samples)
        squares = np.zeros(hops * params.hop_samples)
        squares[: params.fft_samples] = self._window.astype(np.float64) ** 2
        self._hops = hops
        self._gain = (1.0 / squares.reshape(hops, -1).sum(0)).astype(np.float32)
        self._pulse = np.zeros(params.lead_samples, np.float32)
        self._noise = np.zeros(params.lead_samples, np.float32)
        self._overlap = np.zeros((hops, params.hop_samples), np.float32)
        self._skip = params.lead_samples

    def push(self, pulse: Audio, noise: Audio, filters: tuple[Any, Any]) -> Audio:
        """Render the frames of ``filters``: (pulse filter complex [k, bins], noise gain [k, bins]).

        ``pulse`` and ``noise`` are the next samples of the sources; they must reach one hop beyond
        the last frame. Returns the samples that are final.
        """
        p = self._p
        self._pulse = np.concatenate([self._pulse, pulse])
        self._noise = np.concatenate([self._noise, noise])
        shape, hiss = filters
        count = len(hiss)
        if count == 0:
            return np.zeros(0, np.float32)
        spectrum = self._spectra(self._pulse, count) * shape
        spectrum += self._spectra(self._noise, count) * hiss
        frames = np.fft.irfft(spectrum, p.fft_samples).astype(np.float32) * self._window
        frames = np.pad(frames, ((0, 0), (0, self._hops * p.hop_samples - p.fft_samples)))
        parts = frames.reshape(count, self._hops, p.hop_samples)
        summed = np.zeros((count + self._hops, p.hop_samples), np.float32)
        summed[: self._hops] = self._overlap
        for shift in range(self._hops):
            summed[shift : shift + count] += parts[:, shift]
        self._overlap = summed[count:]
        self._pulse = self._pulse[count * p.hop_samples :]
        self._noise = self._noise[count * p.hop_samples :]
        return self._take(summed[:count])

    def finish(self) -> Audio:
        """Return what is left in the overlap, up to the end of the last frame."""
        # The last frame began `lead` before its own samples: that much is still inside.
        rest = self._take(self._overlap)
        return rest[: self._p.lead_samples]

    def _take(self, rows: Frames) -> Audio:
        audio: Audio = (rows * self._gain).ravel()
        skipped = min(self._skip, len(audio))
        self._skip -= skipped
        return audio[skipped:]

    def _spectra(self, source: Audio, count: int) -> NDArray[Any]:
        windows = np.lib.stride_tricks.sliding_window_view(source, self._p.fft_samples)
        frames = windows[: count * self._p.hop_samples : self._p.hop_samples]
        spectra: NDArray[Any] = np.fft.rfft(frames * self._window)
        return spectra
