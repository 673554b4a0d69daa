"""One channel of several: their mean, or one of them where the mean would lose the speech."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

# The mean has less than this share of the channels' mean power: they cancel (10 dB).
_CANCELLED: Final = 0.1


class ChannelSums:
    """Powers of the channels and of their mean, summed over a recording's pieces."""

    def __init__(self, channels: int) -> None:
        self._powers = np.zeros(channels)
        self._mixed = 0.0

    def push(self, block: NDArray[np.float32]) -> None:
        """Take samples float32 [T, channels]."""
        wide = block.astype(np.float64)
        self._powers += np.square(wide).sum(axis=0)
        self._mixed += float(np.square(wide.mean(axis=1)).sum())

    def better_alone(self) -> int | None:
        """Return the loudest channel if the mean cancels, else None.

        Channels of independent sound lose half of their power in a mean of two; a quiet channel
        beside a loud one loses three quarters of the loud one's, 6 dB. Only what is inverted, or
        delayed against the other, loses more.
        """
        if len(self._powers) < 2 or self._mixed >= _CANCELLED * float(self._powers.mean()):
            return None
        return int(self._powers.argmax())
