"""Chunked decoding exactly as the released code does it, faults included; for parity only.

Every chunk decodes all earlier tokens again with all earlier returned mels as the prompt. From the
second chunk on a returned mel carries one frame of its forerunner, so the prompt grows one frame
too long a chunk and each later chunk loses 11.6 ms; the fade windows add up to 1.06 to 1.08;
phases and noise start anew in each chunk. `decoder.Glm4VoiceDecoderStream` does better.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ttt_runtime.codec.base import Audio, Codes
from ttt_runtime.codec.glm4voice import timing
from ttt_runtime.codec.glm4voice.decoder import Flow
from ttt_runtime.codec.glm4voice.noise import Noise
from ttt_runtime.codec.glm4voice.vocoder import Vocoder

OVERLAP_FRAMES = 34  # int(5 tokens / 12.5 Hz * 22050 / 256)
CACHE_SAMPLES = 256

Float32 = NDArray[np.float32]


class UpstreamStream:
    """The released decoding of one sound, chunk by chunk.

    Args:
        flow: the flow's graphs.
        vocoder: the vocoder's graphs.
        phases: start phases in radians of a chunk's number.
        noise: harmonic noise, begun anew in every chunk.
        flow_noise: x(0) [1, 80, F] by chunk number and frame count.
    """

    def __init__(
        self,
        flow: Flow,
        vocoder: Vocoder,
        phases: Callable[[int], NDArray[np.float64]],
        noise: Noise,
        flow_noise: Callable[[int, int], Float32],
    ) -> None:
        self._flow, self._vocoder = flow, vocoder
        self._phases, self._noise, self._flow_noise = phases, noise, flow_noise
        window = np.hamming(2 * OVERLAP_FRAMES)
        self._fade_in, self._fade_out = window[:OVERLAP_FRAMES], window[OVERLAP_FRAMES:]
        self._tokens = np.zeros(0, np.int64)
        self._mels = np.zeros((1, flow.params.mel_bins, 0), np.float32)
        self._last_frame = self._mels
        self._held: Float32 | None = None
        self._last_source = np.zeros(0, np.float32)
        self._chunk = 0

    def chunk(self, codes: Codes, last: bool) -> tuple[Float32, Audio]:
        """Decode the next codes int64 [S].

        Returns:
            mel [1, 80, F] as the released code returns it, and audio [T].
        """
        self._tokens = np.concatenate((self._tokens, codes.astype(np.int64)))
        count = len(self._tokens)
        frames = timing.released_frames(count)
        mu = self._flow.means(self._tokens, timing.released_index(count, frames))
        mel = self._flow.solve(mu, self._mels, self._flow_noise(self._chunk, frames))
        mel = mel[:, :, self._mels.shape[2] :]
        if self._held is not None:
            faded = mel[:, :, :OVERLAP_FRAMES] * self._fade_in + self._held * self._fade_out
            mel[:, :, :OVERLAP_FRAMES] = faded.astype(np.float32)
        mel = np.concatenate((self._last_frame, mel), 2)
        if not last:
            self._held, mel = mel[:, :, -OVERLAP_FRAMES:], mel[:, :, :-OVERLAP_FRAMES]
        state = self._vocoder.source.start(self._phases(self._chunk))
        source, _ = self._vocoder.source.run(self._vocoder.pitch(mel), state, self._noise)
        source[: len(self._last_source)] = self._last_source
        audio = self._vocoder.generate(mel, source)
        if not last:
            self._last_frame = mel[:, :, -1:]
            self._last_source = source[-CACHE_SAMPLES:]
            audio = audio[:-CACHE_SAMPLES]
        self._mels = np.concatenate((self._mels, mel), 2)
        self._chunk += 1
        return mel, audio
