"""How many passes the next block may take while sound is playing.

Two constraints, both over what is known when a block begins:

    now     the block's passes and its decoding end before the sound that is queued does;
    next    what is queued then (this block's sound included) covers the work up to the next
            block's sound at one pass.

If even blocks of one pass take longer than they sound, the buffer shrinks whatever is chosen: then
one pass is the slowest way to run dry. Before the first sound nothing plays and nothing can starve:
the first block gets all its passes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from time import perf_counter

from ttt_ref.errors import ConfigError
from ttt_runtime.decode.scheduler import State, Step

Clock = Callable[[], float]  # seconds, from any zero

_REMEMBERED = 6  # newest measurements of a kind; the slowest of them is planned with


class DeadlineSchedule:
    """Follows one answer's playback and plans its passes. Safe to feed from several threads.

    Args:
        tokens_per_second: speech tokens a second of sound.
        reserve_seconds: sound that should still be queued when the next arrives.
        clock: replaced in tests by a simulated one.
    """

    def __init__(
        self,
        tokens_per_second: float,
        *,
        reserve_seconds: float = 0.05,
        clock: Clock = perf_counter,
    ) -> None:
        if not tokens_per_second > 0 or reserve_seconds < 0:
            raise ConfigError(
                f"a deadline schedule of {tokens_per_second} tokens a second and "
                f"{reserve_seconds} s in reserve; expected numbers above 0"
            )
        self.underruns = 0
        self.starved_seconds = 0.0
        self.passes_planned: list[int] = []
        self._token_seconds = 1.0 / tokens_per_second
        self._reserve = reserve_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._plays_until: float | None = None  # when the queued sound ends
        self._pass_seconds: deque[float] = deque(maxlen=_REMEMBERED)
        self._decode_seconds: deque[float] = deque(maxlen=_REMEMBERED)
        # Time from a block's last pass to the next block's first: commit and text.
        self._gap_seconds: deque[float] = deque(maxlen=_REMEMBERED)
        self._gap = 0.0

    def queue(self, seconds: float) -> None:
        """Take note that so many seconds of sound were handed to the output."""
        with self._lock:
            now = self._clock()
            if self._plays_until is None:
                self._plays_until = now
            elif now > self._plays_until:
                self.underruns += 1
                self.starved_seconds += now - self._plays_until
                self._plays_until = now
            self._plays_until += seconds

    def decoded(self, seconds: float) -> None:
        """Take note that decoding a block took so long."""
        with self._lock:
            self._decode_seconds.append(seconds)

    def observe(self, step: Step, begin_ns: int, end_ns: int) -> None:
        """Take in a forward of the engine (an `engine.Observer`)."""
        seconds = (end_ns - begin_ns) / 1e9
        with self._lock:
            if step.state is State.BLOCK:
                if step.block_step == 0 and self._pass_seconds:
                    self._gap_seconds.append(self._gap)
                self._gap = 0.0
                self._pass_seconds.append(seconds)
            elif step.state is not State.PREFILL:
                self._gap += seconds

    @property
    def queued_seconds(self) -> float:
        """Sound that is queued and not yet played; 0 before the first and when starved."""
        with self._lock:
            return self._queued()

    def plan(self, block_tokens: int, most: int) -> int:
        """Return the passes, 1 .. `most`, of a block that begins now."""
        with self._lock:
            passes = self._plan(block_tokens, most)
            self.passes_planned.append(passes)
            return passes

    def _plan(self, block_tokens: int, most: int) -> int:
        if self._plays_until is None or not self._pass_seconds:
            return most
        one = max(self._pass_seconds)
        decode = max(self._decode_seconds, default=0.0)
        gap = max(self._gap_seconds, default=0.0)
        sound = block_tokens * self._token_seconds
        cycle = gap + one + decode  # the least work from one block's sound to the next
        left = self._queued() - decode - self._reserve
        if sound < cycle:
            return 1
        now = left
        after = left + sound - cycle
        return min(max(int(min(now, after) / one), 1), most)

    def _queued(self) -> float:
        if self._plays_until is None:
            return 0.0
        return max(self._plays_until - self._clock(), 0.0)
