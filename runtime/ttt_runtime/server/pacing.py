"""Sound is sent little ahead of the time at which it is heard.

What was sent cannot be taken back: a client that is interrupted throws it away, and one that does
not say how much it played has heard all of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

AHEAD_SECONDS: Final = 2.0


class Pace:
    """Follows one answer's sound.

    Args:
        ahead_seconds: how much more may be sent than could have been played.
        clock: replaced in tests.
    """

    def __init__(
        self, ahead_seconds: float = AHEAD_SECONDS, clock: Callable[[], float] = monotonic
    ) -> None:
        self.sent_seconds = 0.0
        self.underruns = 0
        self._ahead = ahead_seconds
        self._clock = clock
        self._plays_until: float | None = None

    @property
    def wait_seconds(self) -> float:
        """How long the next piece has to wait; 0: not at all."""
        return max(self.unplayed_seconds - self._ahead, 0.0)

    @property
    def unplayed_seconds(self) -> float:
        """Sound that a client which plays at once has not played yet."""
        if self._plays_until is None:
            return 0.0
        return max(self._plays_until - self._clock(), 0.0)

    def sent(self, seconds: float) -> None:
        """Take note of a piece that was sent."""
        now = self._clock()
        if self._plays_until is None:
            self._plays_until = now
        elif now > self._plays_until:
            self.underruns += 1
            self._plays_until = now
        self._plays_until += seconds
        self.sent_seconds += seconds

    async def wait(self, ended: asyncio.Event) -> None:
        """Wait until the next piece may go, or `ended` is set."""
        while not ended.is_set() and (seconds := self.wait_seconds) > 0:
            try:
                await asyncio.wait_for(ended.wait(), seconds)
            except asyncio.TimeoutError:
                continue
