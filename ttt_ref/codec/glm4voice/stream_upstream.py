"""Chunked decoding exactly as the released code does it, faults included; for parity only.

Every chunk decodes all earlier ids again, with all earlier returned mels as the prompt. From the
second chunk on a returned mel carries one frame of its forerunner, so the prompt grows one frame
too long a chunk, each later chunk loses 11.6 ms and its cross-fade is misaligned; the two fade
windows add up to 1.06 to 1.08; phases and noise start anew. `stream_bounded` does better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ttt_ref.codec.glm4voice.flow import Flow, SolverOptions
from ttt_ref.codec.glm4voice.hift import Hift
from ttt_ref.codec.glm4voice.noise import Noise
from ttt_ref.codec.glm4voice.timing import frames_of

OVERLAP_FRAMES = 34  # int(5 tokens / 12.5 Hz * 22050 / 256)
CACHE_FRAMES = 1
CACHE_SAMPLES = 256


def released_flow_noise(chunk: int, frames: int) -> Tensor:
    """Return x(0) [1, 80, F]: the released code reseeds with 42 at every call."""
    return torch.randn(1, 80, frames, generator=torch.Generator().manual_seed(42))


@dataclass(frozen=True)
class UpstreamChunk:
    """What one chunk gives: the mel [1, 80, F] as returned (cache in front) and audio [T]."""

    mel: Tensor
    audio: Tensor


class UpstreamStream:
    """The released `token2wav` with its three caches.

    Args:
        flow: the flow.
        hift: the vocoder.
        phases: start phases of a chunk's number, [9].
        noise: harmonic noise, restarted in every chunk.
        flow_noise: x(0) by chunk number and frame count.
    """

    def __init__(
        self,
        flow: Flow,
        hift: Hift,
        phases: Callable[[int], Tensor],
        noise: Noise,
        flow_noise: Callable[[int, int], Tensor] = released_flow_noise,
        options: SolverOptions | None = None,
    ) -> None:
        self._flow, self._hift = flow, hift
        self._phases, self._noise, self._flow_noise = phases, noise, flow_noise
        self._options = options or SolverOptions()
        window = torch.from_numpy(np.hamming(2 * OVERLAP_FRAMES))
        self._fade_in, self._fade_out = window[:OVERLAP_FRAMES], window[OVERLAP_FRAMES:]
        self._tokens = torch.zeros(1, 0, dtype=torch.int64)
        self._mels = torch.zeros(1, 80, 0)
        self._held: Tensor | None = None
        self._last_frame = torch.zeros(1, 80, 0)
        self._last_source: Tensor | None = None
        self._chunk = 0

    def chunk(self, tokens: Tensor, last: bool) -> UpstreamChunk:
        """Decode the next tokens int64 [1, S]; all but the last need 41 frames in front."""
        frames = frames_of(self._tokens.shape[1] + tokens.shape[1])
        mel = self._flow(
            tokens,
            self._flow_noise(self._chunk, frames),
            self._tokens,
            self._mels,
            options=self._options,
        )
        if self._held is not None:
            mel[:, :, :OVERLAP_FRAMES] = (
                mel[:, :, :OVERLAP_FRAMES] * self._fade_in + self._held * self._fade_out
            ).float()
        mel = torch.cat((self._last_frame, mel), 2)
        if not last:
            self._held = mel[:, :, -OVERLAP_FRAMES:]
            mel = mel[:, :, :-OVERLAP_FRAMES]
        audio, source = self._hift(mel, self._phases(self._chunk), self._noise, self._last_source)
        if not last:
            self._last_frame = mel[:, :, -CACHE_FRAMES:]
            self._last_source = source[:, :, -CACHE_SAMPLES:]
            audio = audio[:, :-CACHE_SAMPLES]
        self._tokens = torch.cat((self._tokens, tokens), 1)
        self._mels = torch.cat((self._mels, mel), 2)
        self._chunk += 1
        return UpstreamChunk(mel, audio[0])
