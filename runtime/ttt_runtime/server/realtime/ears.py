"""A session's sound, judged frame by frame and remembered for a while. For the ears' thread."""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np

from ttt_runtime.audio.voice_activity import (
    FRAME_SAMPLES,
    RATE_HZ,
    Audio,
    VoiceDetector,
    level_db,
)
from ttt_runtime.audio.voice_frame import VoiceFrame

# Sound before the beginning of speech that can still be asked for, beyond any pre-roll.
_REMEMBERED_SECONDS: Final = 4.0


class Ears:
    """Cuts sound into frames, and says how likely there is speech in each.

    Attributes:
        seconds: the session's time: sound judged so far.
    """

    def __init__(self, detector: VoiceDetector) -> None:
        self._detector = detector
        self._rest = np.zeros(0, np.float32)
        self._frames = 0
        most = int(_REMEMBERED_SECONDS * RATE_HZ / FRAME_SAMPLES)
        self._memory: deque[Audio] = deque(maxlen=most)

    @property
    def seconds(self) -> float:
        """The session's time: sound judged so far."""
        return self._frames * FRAME_SAMPLES / RATE_HZ

    def judge(self, audio: Audio) -> list[tuple[Audio, VoiceFrame]]:
        """Take audio float32 [t] at 16 kHz; return the frames [512] that it completes."""
        audio = np.concatenate([self._rest, audio])
        whole = len(audio) // FRAME_SAMPLES * FRAME_SAMPLES
        self._rest = audio[whole:]
        judged = []
        for start in range(0, whole, FRAME_SAMPLES):
            frame = audio[start : start + FRAME_SAMPLES]
            probability = self._detector.probability(frame)
            self._frames += 1
            self._memory.append(frame)
            length = FRAME_SAMPLES / RATE_HZ
            judged.append((frame, VoiceFrame(self.seconds, length, probability, level_db(frame))))
        return judged

    def since(self, from_s: float, until_s: float) -> Audio:
        """Return what is remembered of the sound between two times."""
        first = self._frames - len(self._memory)
        begin = max(int(from_s * RATE_HZ) - first * FRAME_SAMPLES, 0)
        end = max(round(until_s * RATE_HZ) - first * FRAME_SAMPLES, 0)
        if not self._memory:
            return np.zeros(0, np.float32)
        return np.concatenate(list(self._memory))[begin:end]
