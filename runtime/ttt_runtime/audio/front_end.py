"""From the microphone's blocks to clean frames with a judgement: is somebody speaking?

    microphone, loudspeaker -> echo, noise (10 ms) -> voice activity (32 ms) -> frames

Blocks may have any length; frames are of 512 samples at 16 kHz. Not thread-safe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from ttt_ref.errors import AudioError
from ttt_runtime.audio.echo import CHUNK_SAMPLES, RATE_HZ, EchoProcessor, Pcm
from ttt_runtime.audio.echo_level import EchoLevel
from ttt_runtime.audio.voice_activity import FRAME_SAMPLES, Audio, VoiceDetector, level_db
from ttt_runtime.audio.voice_frame import VoiceFrame

FULL_SCALE: Final = 32768.0


@dataclass(frozen=True, slots=True)
class CleanFrame:
    """A frame's clean audio float32 [512] at 16 kHz, and what turn-taking knows of it."""

    audio: Audio
    voice: VoiceFrame


class FrontEnd:
    """Cleans and judges one microphone.

    Args:
        echo: see `echo.echo_processor`.
        detector: see `voice_activity.voice_detector`.
    """

    def __init__(self, echo: EchoProcessor, detector: VoiceDetector) -> None:
        self.echo = echo
        self.detector = detector
        self.echo_level = EchoLevel()
        self._mic = np.zeros(0, np.int16)
        self._played = np.zeros(0, np.int16)
        self._clean: list[Audio] = []
        self._clean_samples = 0
        self._played_clean: list[Audio] = []
        self._samples = 0  # given out, since the beginning

    @property
    def seconds(self) -> float:
        """The microphone's time: what was given out so far."""
        return self._samples / RATE_HZ

    def push(self, mic: Pcm, played: Pcm | None = None) -> list[CleanFrame]:
        """Take a block of the microphone, and what was played in it (None: nothing).

        Args:
            mic: int16 [T] at 16 kHz.
            played: int16 [T] of the loudspeaker.

        Raises:
            AudioError: blocks of different lengths.
        """
        if played is None:
            played = np.zeros(len(mic), np.int16)
        if len(mic) != len(played):
            raise AudioError(
                f"{len(mic)} samples of the microphone with {len(played)} of the loudspeaker; "
                "they must be of the same moment"
            )
        self._mic = np.concatenate([self._mic, mic])
        self._played = np.concatenate([self._played, played])
        whole = len(self._mic) - len(self._mic) % CHUNK_SAMPLES
        for begin in range(0, whole, CHUNK_SAMPLES):
            piece = slice(begin, begin + CHUNK_SAMPLES)
            self._take(self.echo.process(self._mic[piece], self._played[piece]))
            self._played_clean.append(self._played[piece].astype(np.float32) / FULL_SCALE)
        self._mic, self._played = self._mic[whole:], self._played[whole:]
        return self._frames()

    def reset(self) -> None:
        """The devices began anew: forget room and voice; time goes on."""
        self.echo.reset()
        self.detector.reset()
        self.echo_level.reset()
        self._mic = self._played = np.zeros(0, np.int16)
        self._clean, self._played_clean, self._clean_samples = [], [], 0

    def _take(self, chunk: Pcm) -> None:
        self._clean.append(chunk.astype(np.float32) / FULL_SCALE)
        self._clean_samples += len(chunk)

    def _frames(self) -> list[CleanFrame]:
        if self._clean_samples < FRAME_SAMPLES:
            return []
        clean, played = np.concatenate(self._clean), np.concatenate(self._played_clean)
        frames = []
        whole = len(clean) - len(clean) % FRAME_SAMPLES
        for begin in range(0, whole, FRAME_SAMPLES):
            audio = clean[begin : begin + FRAME_SAMPLES]
            self._samples += FRAME_SAMPLES
            probability = self.detector.probability(audio)
            level = level_db(audio)
            echo = self.echo_level.push(level, level_db(played[begin : begin + FRAME_SAMPLES]))
            seconds = FRAME_SAMPLES / RATE_HZ
            voice = VoiceFrame(self.seconds, seconds, probability, level, echo)
            frames.append(CleanFrame(audio, voice))
        self._clean, self._played_clean = [clean[whole:]], [played[whole:]]
        self._clean_samples = len(clean) - whole
        return frames
