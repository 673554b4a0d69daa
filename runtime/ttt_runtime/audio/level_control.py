"""Level control of a microphone: speech is brought to the level that the codec learnt, slowly.

It acts on what is encoded only. Voice activity and the threshold over our own echo go on hearing
the room as it is, so a soft room is not made to sound like speech.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ttt_runtime.audio.voice_activity import Audio, level_db

_SPEECH: Final = 0.6  # probability from which a frame teaches the level
_MOST_UP_DB: Final = 24.0
_MOST_DOWN_DB: Final = -12.0
_NEAR_DB: Final = 3.0  # no correction within it: nothing is gained by less
_FIRST_FRAMES: Final = 6  # the level of a voice that was not heard yet is learnt fast
_FAST_DB: Final = 4.0  # a frame
_SLOW_DB: Final = 0.25  # a frame of 32 ms: 8 dB a second
_CEILING: Final = 0.98


class LevelControl:
    """Follows one voice.

    Args:
        target_db: level of speech wanted, in dB of full scale; None leaves all as it is.
    """

    def __init__(self, target_db: float | None) -> None:
        self._target_db = target_db
        self._frames = 0
        self._level_db = 0.0
        self.gain_db = 0.0

    def push(self, audio: Audio, probability: float) -> Audio:
        """Take a frame float32 [T] and how likely it is speech; return it at the level wanted."""
        if self._target_db is None:
            return audio
        before_db = self.gain_db
        if probability >= _SPEECH:
            self._learn(level_db(audio))
            wanted = min(max(self._target_db - self._level_db, _MOST_DOWN_DB), _MOST_UP_DB)
            if abs(wanted) < _NEAR_DB:
                wanted = 0.0
            step = _FAST_DB if self._frames <= _FIRST_FRAMES else _SLOW_DB
            self.gain_db += min(max(wanted - self.gain_db, -step), step)
        if before_db == 0.0 and self.gain_db == 0.0:
            return audio
        # From one frame's gain to the next without a step.
        curve = np.linspace(before_db, self.gain_db, len(audio), dtype=np.float32)
        louder: Audio = audio * np.float32(10.0) ** (curve / np.float32(20.0))
        return np.clip(louder, -_CEILING, _CEILING)

    def reset(self) -> None:
        """Another microphone."""
        self._frames, self._level_db, self.gain_db = 0, 0.0, 0.0

    def _learn(self, frame_db: float) -> None:
        """Follow the louder frames: what lies between words says nothing of a voice's level."""
        self._frames += 1
        if self._frames == 1:
            self._level_db = frame_db
        elif frame_db > self._level_db:
            self._level_db += 0.3 * (frame_db - self._level_db)
        else:
            self._level_db += 0.02 * (frame_db - self._level_db)
