"""Vocode a mel that grows, without a seam.

The generator is run on the new frames with 14 known frames before them and up to 19 frames after
them. That is its whole field of view, so when the frames after are the ones that follow, the
audio equals the vocoder's on the whole mel. The phases of the harmonics, the excitation of the
known frames and the noise's position are carried over.

When the frames after are only a guess, the next call starts with slightly different audio than
this one would have gone on with: the two are faded into each other over one frame.

Axis letters: F mel frames, T samples (T = 256 F).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ttt_ref.codec.glm4voice.config import DECODER_HOP
from ttt_ref.codec.glm4voice.hift import Hift
from ttt_ref.codec.glm4voice.noise import Noise

LEFT_FRAMES = 14  # field of view of the generator, excitation included
RIGHT_FRAMES = 19  # the same, and the five frames that the fundamental looks ahead
FADE_SAMPLES = DECODER_HOP


def fade_in(length: int) -> Tensor:
    """Return a raised cosine from 0 to 1 [length]; it and its mirror image add up to 1."""
    return 0.5 - 0.5 * torch.cos(torch.pi * (torch.arange(length) + 0.5) / length)


class VocoderStream:
    """State of one sound on its way through the vocoder.

    Args:
        hift: the vocoder.
        phases: start phases in radians [9].
        noise: harmonic noise by sample number.
    """

    def __init__(self, hift: Hift, phases: Tensor, noise: Noise) -> None:
        self._hift, self._noise = hift, noise
        self._state = hift.m_source.start(phases)
        self._mel = torch.zeros(1, hift.config.mel_bins, 0)
        self._source = torch.zeros(1, 1, 0)
        self._tail = torch.zeros(0)

    def push(self, mel: Tensor, ahead: Tensor) -> Tensor:
        """Return the audio [T] of frames.

        Args:
            mel: the next frames [1, 80, F].
            ahead: what is thought to follow [1, 80, >= 0]; empty at the end of the sound.
        """
        count, known = mel.shape[2], self._mel.shape[2]
        if not count:
            return torch.zeros(0)
        ahead = ahead[:, :, :RIGHT_FRAMES]
        window = torch.cat((self._mel, mel, ahead), 2)
        f0 = self._hift.f0_predictor(window)[0, known:]
        source, self._state = self._hift.m_source(f0[:count], self._state, self._noise)
        guess, _ = self._hift.m_source(f0[count:], self._state, self._noise)
        whole = torch.cat((self._source, source, guess), 2)
        audio = self._hift.generate(window, whole)[0, known * DECODER_HOP :]
        if len(self._tail):
            gain = fade_in(len(self._tail))
            audio[: len(gain)] = audio[: len(gain)] * gain + self._tail * gain.flip(0)
        end = count * DECODER_HOP
        self._tail = audio[end : end + FADE_SAMPLES]
        self._mel = torch.cat((self._mel, mel), 2)[:, :, -LEFT_FRAMES:]
        self._source = torch.cat((self._source, source), 2)[:, :, -LEFT_FRAMES * DECODER_HOP :]
        return audio[:end]
