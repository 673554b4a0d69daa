"""Mel to audio, also of a mel that grows, without a seam.

The generator runs on the new frames with 14 known frames before them and up to 19 after them:
its whole field of view. When the frames after are the ones that follow, streamed audio equals the
whole. When they are a guess, the next call begins a little differently than this one would have
gone on, and the two are faded into each other over one frame.

Axis letters: F mel frames, T samples (T = 256 F).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ttt_runtime.backends.ort.session import GraphSession
from ttt_runtime.codec.glm4voice.noise import Noise
from ttt_runtime.codec.glm4voice.params import DecoderParams
from ttt_runtime.codec.glm4voice.source import HarmonicSource
from ttt_runtime.codec.glm4voice.timing import HOP

LEFT_FRAMES = 14  # field of view of the generator, excitation included
RIGHT_FRAMES = 19  # the same, and the five frames that the fundamental looks ahead
FADE_SAMPLES = HOP

Float32 = NDArray[np.float32]


def fade_in(length: int) -> Float32:
    """Return a raised cosine from 0 to 1 [length]; it and its mirror image add up to 1."""
    ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(length) + 0.5) / max(length, 1))
    return ramp.astype(np.float32)


class Vocoder:
    """The two vocoder graphs and the excitation between them."""

    def __init__(self, f0: GraphSession, generator: GraphSession, params: DecoderParams) -> None:
        self.f0, self.generator = f0, generator
        self.params = params
        self.source = HarmonicSource(params)

    def pitch(self, mel: Float32) -> Float32:
        """Return Hz a frame [F] of mel [1, 80, F]."""
        hz: Float32 = self.f0.run({"mel": mel})[0][0]
        return hz

    def generate(self, mel: Float32, source: Float32) -> Float32:
        """Return audio [T] of mel [1, 80, F] and excitation [T]."""
        audio: Float32 = self.generator.run({"mel": mel, "source": source[None, None]})[0][0]
        return audio


class VocoderStream:
    """State of one sound on its way through the vocoder.

    Args:
        vocoder: the graphs.
        phases: start phases in radians.
        noise: harmonic noise by sample number.
    """

    def __init__(self, vocoder: Vocoder, phases: NDArray[np.float64], noise: Noise) -> None:
        self._vocoder, self._noise = vocoder, noise
        self._state = vocoder.source.start(phases)
        self._mel = np.zeros((1, vocoder.params.mel_bins, 0), np.float32)
        self._source = np.zeros(0, np.float32)
        self._tail = np.zeros(0, np.float32)

    def push(self, mel: Float32, ahead: Float32) -> Float32:
        """Return the audio [T] of frames.

        Args:
            mel: the next frames [1, 80, F].
            ahead: what is thought to follow [1, 80, >= 0]; empty at the end of the sound.
        """
        count, known = mel.shape[2], self._mel.shape[2]
        if not count:
            return np.zeros(0, np.float32)
        window = np.concatenate((self._mel, mel, ahead[:, :, :RIGHT_FRAMES]), 2)
        f0 = self._vocoder.pitch(window)[known:]
        source, self._state = self._vocoder.source.run(f0[:count], self._state, self._noise)
        guess, _ = self._vocoder.source.run(f0[count:], self._state, self._noise)
        whole = np.concatenate((self._source, source, guess))
        audio = self._vocoder.generate(window, whole)[known * HOP :]
        if faded := len(self._tail):
            gain = fade_in(faded)
            audio[:faded] = audio[:faded] * gain + self._tail * gain[::-1]
        end = count * HOP
        self._tail = audio[end : end + FADE_SAMPLES].copy()
        self._mel = np.concatenate((self._mel, mel), 2)[:, :, -LEFT_FRAMES:]
        self._source = np.concatenate((self._source, source))[-LEFT_FRAMES * HOP :]
        return audio[:end]
