"""The engine's own thread, its ears beside it, and how the event loop asks them for work.

Nothing of the model runs on the event loop. All work goes through one thread, a step at a time:
`fairness.pick` says whose. A turn is a generator of parts; what it yields is handed to the loop,
where its client takes it at its own pace.

Speech is judged and encoded in a second thread: the codec's graphs are not the engine's, and who
speaks must not wait for who is answered.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any, Generic, TypeVar

from ttt_runtime.dialogue.assistant import Assistant, AudioPart, Part, Reply, TextPart
from ttt_runtime.server.errors import busy
from ttt_runtime.server.fairness import Claim, pick
from ttt_runtime.server.metrics import Metrics

logger = logging.getLogger("ttt_runtime.server")
T = TypeVar("T")
# Begins a turn on the engine's thread; the event ends it.
Begin = Callable[[threading.Event], Iterator[Part]]


class _Call(Generic[T]):
    """Short work and where its result goes."""

    def __init__(self, claim: Claim, work: Callable[[], T], future: asyncio.Future[T]) -> None:
        self.claim = claim
        self._work = work
        self._future = future
        self._loop = future.get_loop()

    def step(self) -> bool:
        """Do it; True: it is done."""
        try:
            result = self._work()
        except BaseException as error:
            self._deliver(self._future.set_exception, error)
        else:
            self._deliver(self._future.set_result, result)
        return True

    def fail(self, error: BaseException) -> None:
        """Tell the caller that it will not be done."""
        self._deliver(self._future.set_exception, error)

    def _deliver(self, deliver: Callable[[Any], None], value: Any) -> None:
        def unless_cancelled() -> None:
            if not self._future.done():
                deliver(value)

        _call_soon(self._loop, unless_cancelled)


class Turn:
    """A turn on its way: iterate over its parts; the last is the Reply.

    Attributes:
        reply: the last part once it came; None before, and for a turn cancelled before it began.
    """

    def __init__(
        self,
        claim: Claim,
        begin: Begin,
        rate_hz: int,
        metrics: Metrics,
        watch: Callable[[Part], None] | None,
    ) -> None:
        self.claim = claim
        self.reply: Reply | None = None
        self._begin = begin
        self._watch = watch
        self._rate_hz = rate_hz
        self._metrics = metrics
        self._cancel = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._parts: asyncio.Queue[Part | BaseException | None] = asyncio.Queue()
        self._steps: Iterator[Part] | None = None
        self._asked_at = monotonic()
        self._ended = False

    def cancel(self) -> None:
        """End it within one forward. Its remaining parts still come, the Reply among them."""
        self.claim.cancelled = True
        self._cancel.set()

    async def __aiter__(self) -> AsyncIterator[Part]:
        """Yield the parts; raises what the turn raised."""
        while not self._ended:
            part = await self._parts.get()
            if part is None or isinstance(part, BaseException):
                self._ended = True
                if part is not None:
                    raise part
                return
            if isinstance(part, Reply):
                self.reply = part
            yield part

    async def drain(self) -> Reply | None:
        """Take the rest; return the Reply."""
        async for _ in self:
            pass
        return self.reply

    def step(self) -> bool:
        """Compute up to the next part; True: the turn is over."""
        try:
            if self._steps is None:
                if self._cancel.is_set():
                    self._give(None)
                    return True
                self._metrics.waiting.observe(1e3 * (monotonic() - self._asked_at))
                self._steps = self._begin(self._cancel)
            part = next(self._steps)
        except StopIteration:
            self._give(None)
            return True
        except BaseException as error:
            self._give(error)
            return True
        if isinstance(part, AudioPart):
            self.claim.sounded(monotonic(), len(part.audio) / self._rate_hz)
        self._give(part)
        return False

    def fail(self, error: BaseException) -> None:
        """Tell the client that it will not be computed."""
        self._give(error)

    def _give(self, part: Part | BaseException | None) -> None:
        def deliver() -> None:
            if self._watch is not None and isinstance(part, TextPart | AudioPart | Reply):
                self._watch(part)
            self._parts.put_nowait(part)

        _call_soon(self._loop, deliver)


class EngineService:
    """One assistant, one thread, many sessions.

    Args:
        assistant: its engine must allow generations to take turns (`interleaved`).
        metrics: where times are counted.
        most_waiting: turns that may wait before new ones are refused.
    """

    def __init__(
        self, assistant: Assistant, metrics: Metrics | None = None, *, most_waiting: int = 64
    ) -> None:
        self.assistant = assistant
        self.metrics = metrics or Metrics()
        self._most_waiting = most_waiting
        self._rate_hz = assistant.decoder.sample_rate_hz if assistant.decoder else 1
        self._numbers = itertools.count()
        self._work: list[_Call[Any] | Turn] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._step_began: float | None = None
        self._thread = threading.Thread(target=self._run, name="ttt-engine", daemon=True)
        self._ears = ThreadPoolExecutor(1, "ttt-ears")

    def start(self) -> None:
        """Begin to compute."""
        self._thread.start()

    def stop(self) -> None:
        """End every turn and the thread; waits for the step that runs."""
        with self._changed:
            self._stopping = True
            for work in self._work:
                if isinstance(work, Turn):
                    work.cancel()
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()
        self._ears.shutdown(cancel_futures=True)

    @property
    def waiting(self) -> int:
        """Turns that are not finished."""
        return sum(isinstance(work, Turn) for work in list(self._work))

    @property
    def stuck_seconds(self) -> float:
        """How long the present step has been running; 0 between steps."""
        began = self._step_began
        return 0.0 if began is None else monotonic() - began

    async def call(self, work: Callable[[], T]) -> T:
        """Run short work on the engine's thread and return its result.

        Raises:
            what `work` raises.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._put(_Call(Claim(next(self._numbers), small=True), work, future))
        return await future

    async def hear(self, work: Callable[[], T]) -> T:
        """Run a piece of listening in the ears' thread and return its result.

        Raises:
            what `work` raises.
        """
        return await asyncio.get_running_loop().run_in_executor(self._ears, work)

    def turn(self, begin: Begin, *, watch: Callable[[Part], None] | None = None) -> Turn:
        """Put a turn into the queue.

        Args:
            begin: begins it on the engine's thread.
            watch: sees each part on the event loop as it comes, before its client takes it.

        Raises:
            ApiError: too many wait already.
        """
        if (waiting := self.waiting) >= self._most_waiting:
            self.metrics.refused.add(reason="busy")
            raise busy(waiting)
        claim = Claim(next(self._numbers))
        turn = Turn(claim, begin, self._rate_hz, self.metrics, watch)
        self._put(turn)
        return turn

    def forget_behind(self, old: Sequence[int], new: Sequence[int]) -> None:
        """Cut the cache where an answer was cut; on the engine's thread.

        Args:
            old: ids of the answer as it was.
            new: what is left of them.
        """
        same = 0
        while same < min(len(old), len(new)) and old[same] == new[same]:
            same += 1
        kept = self.assistant.engine.kept_ids
        for start in range(len(kept) - same + 1):
            if kept[start : start + same] == tuple(old[:same]) and same:
                self.assistant.engine.truncate(start + same)
                return

    def _put(self, work: _Call[Any] | Turn) -> None:
        with self._changed:
            if self._stopping:
                work.fail(asyncio.CancelledError())
                return
            self._work.append(work)
            self._changed.notify()

    def _run(self) -> None:
        current: Claim | None = None
        while True:
            with self._changed:
                while not self._work:
                    if self._stopping:
                        return
                    self._changed.wait()
                claim = pick([work.claim for work in self._work], current)
                work = next(work for work in self._work if work.claim is claim)
            self._step_began = monotonic()
            done = work.step()
            self._step_began = None
            if not claim.small:
                current = claim
            if done:
                with self._changed:
                    self._work.remove(work)


def _call_soon(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:  # the loop was closed: nobody waits any more
        logger.debug("a result came after the event loop had ended")
