"""How much one client may ask for: a bucket that fills at a steady rate."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic

Clock = Callable[[], float]


class TokenBucket:
    """Allows `per_second` on average and `burst` at once.

    Args:
        per_second: rate; 0 allows everything.
        burst: most at once.
        clock: replaced in tests.
    """

    def __init__(self, per_second: float, burst: float, clock: Clock = monotonic) -> None:
        self._rate, self._burst, self._clock = per_second, burst, clock
        self._level, self._at = burst, clock()

    def wait_seconds(self, amount: float = 1.0) -> float:
        """Take `amount`; return how long the taker has to wait first (0: not at all)."""
        if not self._rate:
            return 0.0
        self._fill()
        self._level -= amount
        return max(-self._level / self._rate, 0.0)

    @property
    def is_rested(self) -> bool:
        """True while half of the burst, or more, is there."""
        self._fill()
        return self._level >= self._burst / 2

    def allows(self, amount: float = 1.0) -> bool:
        """Take `amount` if it is there."""
        if not self._rate:
            return True
        self._fill()
        if self._level < amount:
            return False
        self._level -= amount
        return True

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now


class BucketPerClient:
    """A bucket for each client address; the longest unused are forgotten."""

    def __init__(
        self, per_second: float, burst: float, *, most: int = 1024, clock: Clock = monotonic
    ) -> None:
        self._rate, self._burst, self._most, self._clock = per_second, burst, most, clock
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def allows(self, client: str) -> bool:
        """Take one for this client if it is there."""
        bucket = self._buckets.pop(client, None) or TokenBucket(
            self._rate, self._burst, self._clock
        )
        self._buckets[client] = bucket
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return bucket.allows()
