"""Drop the silence before an answer's first sound: a listener waits for it as for computing."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Audio = NDArray[np.float32]

_AUDIBLE: Final = 0.003  # -50 dB of full scale
_KEPT_S: Final = 0.01  # before the first audible sample, so that it does not begin with a click
_LONGEST_S: Final = 1.0  # an answer that begins more softly than audible is not searched further


class LeadingSilence:
    """Takes one answer's audio as it comes; `dropped_s` of it were silence at its beginning."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._held = np.zeros(0, np.float32)
        self._is_over = False
        self._dropped = 0

    @property
    def dropped_s(self) -> float:
        """Seconds that were left out."""
        return self._dropped / self._rate_hz

    def push(self, audio: Audio) -> Audio:
        """Take audio float32 [T]; return it from its first audible sample on."""
        if self._is_over:
            return audio
        audio = np.concatenate([self._held, audio])
        audible = np.flatnonzero(np.abs(audio) > _AUDIBLE)
        kept = round(_KEPT_S * self._rate_hz)
        self._is_over = bool(len(audible)) or self._dropped > _LONGEST_S * self._rate_hz
        if len(audible):
            begin = max(int(audible[0]) - kept, 0)
        else:
            begin = 0 if self._is_over else max(len(audio) - kept, 0)
        self._dropped += begin
        if self._is_over:
            self._held = audio[:0]
            return audio[begin:]
        self._held = audio[begin:]
        return audio[:0]
