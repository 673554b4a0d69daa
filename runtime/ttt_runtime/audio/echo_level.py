"""How loud the rest of our own echo may be: followed from what is played and what is left of it."""

from __future__ import annotations

from collections import deque
from typing import Final

from ttt_runtime.audio.voice_frame import SILENT_DB


class EchoLevel:
    """Follows the leak, the level of what is left of the echo above that of what was played.

    It rises slowly, so that somebody who speaks for a second over the answer does not lift his own
    threshold, and falls fast, as the canceller learns the room.
    """

    _START_DB: Final = -45.0  # leak of a canceller that works; a worse one is learnt
    _LOWEST_DB: Final = -60.0
    _RISE_DB: Final = 0.06  # a frame of 32 ms: 2 dB a second
    _FALL_DB: Final = 0.25
    _QUIET_DB: Final = -50.0  # played more softly than this nothing is learnt
    _PATH_FRAMES: Final = 10  # 320 ms: from the loudspeaker into the canceller's output

    def __init__(self) -> None:
        self._played: deque[float] = deque(maxlen=self._PATH_FRAMES)
        self._leak_db = self._START_DB

    def push(self, level_db: float, played_db: float) -> float:
        """Take a frame's levels; return that of the echo to be expected, SILENT_DB for none."""
        self._played.append(played_db)
        loudest = max(self._played)
        if loudest < self._QUIET_DB:
            return SILENT_DB
        leak = level_db - loudest
        step = self._RISE_DB if leak > self._leak_db else -self._FALL_DB
        self._leak_db = max(self._leak_db + step, self._LOWEST_DB)
        return loudest + self._leak_db

    def reset(self) -> None:
        """Forget the room."""
        self._played.clear()
        self._leak_db = self._START_DB
