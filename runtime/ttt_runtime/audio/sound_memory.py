"""The last seconds of a sound, by its own time."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

Audio = NDArray[np.float32]


class SoundMemory:
    """Remembers what was pushed last, up to `longest_s`."""

    def __init__(self, rate_hz: int, longest_s: float) -> None:
        self._rate_hz = rate_hz
        self._longest = round(longest_s * rate_hz)
        self._pieces: deque[Audio] = deque()
        self._begin = 0  # sample at which the oldest piece begins
        self._end = 0

    @property
    def seconds(self) -> float:
        """Time at the end of what was pushed."""
        return self._end / self._rate_hz

    def push(self, audio: Audio) -> None:
        """Add audio float32 [T]."""
        self._pieces.append(audio)
        self._end += len(audio)
        while self._end - self._begin - len(self._pieces[0]) > self._longest:
            self._begin += len(self._pieces.popleft())

    def since(self, from_s: float) -> Audio:
        """Return the audio float32 [T] from a time on, as far as it is remembered."""
        wanted = self._end - max(round(from_s * self._rate_hz), self._begin)
        parts: list[Audio] = []
        for piece in reversed(self._pieces):
            if wanted <= 0:
                break
            parts.append(piece[-wanted:] if wanted < len(piece) else piece)
            wanted -= len(piece)
        return np.concatenate(parts[::-1]) if parts else np.zeros(0, np.float32)
