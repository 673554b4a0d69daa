"""Model and codec side by side: while a block sounds into being, the next one is computed.

    model thread   events -> bounded queue of speech -> codec thread -> bounded queue -> caller

Up to the first sound the model waits for the codec: nothing plays yet, so whatever takes cores
from the first piece of sound delays what the listener waits for, and what it would have computed
meanwhile has that piece's whole length to be computed in.

Order is kept within text and within sound; sound comes as soon as it exists, so it may come later
than text that was made after it. `in_turn` does the same work in the caller's thread.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Final, TypeVar

from ttt_runtime.audio.reader import Audio
from ttt_runtime.decode.events import AnyEvent, DoneEvent, SpeechEvent

# Decodes a finished block; at the DoneEvent the rest. Returns pieces of audio float32 [t].
Decode = Callable[[SpeechEvent | DoneEvent], Sequence[Audio]]
Item = AnyEvent | Audio
_T = TypeVar("_T")

THREAD_NAMES: Final = ("ttt-model", "ttt-codec")
_WAITING_BLOCKS: Final = 2  # blocks that may wait for the codec
_WAITING_ITEMS: Final = 64  # events and pieces of audio that may wait for the caller
_POLL_SECONDS: Final = 0.05


class CancelEither(threading.Event):
    """Is set when it was set itself or when the caller's event is."""

    def __init__(self, other: threading.Event | None) -> None:
        super().__init__()
        self._other = other

    def is_set(self) -> bool:
        """Tell whether either is set."""
        return super().is_set() or (self._other is not None and self._other.is_set())


def in_turn(events: Iterator[AnyEvent], decode: Decode) -> Generator[Item, None, None]:
    """Yield events and the audio that each makes final; the DoneEvent comes last."""
    for event in events:
        if isinstance(event, DoneEvent):
            yield from decode(event)
            yield event
            return
        yield event
        if isinstance(event, SpeechEvent):
            yield from decode(event)


class _Failure:
    """An exception on its way to the caller."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Stopped(Exception):
    """The caller left; nobody waits for what would be put."""


def overlapped(
    events: Iterator[AnyEvent], decode: Decode, cancel: CancelEither
) -> Generator[Item, None, None]:
    """Yield what `in_turn` does, with the model and the codec in threads of their own.

    Closing the generator, or any exception, ends both threads within one forward and one block of
    the codec, and joins them. A cancelled answer decodes nothing more, whatever still waits.

    Args:
        events: a generation that ends when `cancel` is set.
        decode: called in the codec's thread only.
        cancel: set here when the caller leaves.
    """
    left = threading.Event()
    taken = threading.Event()  # the codec is done with the block that the model waits for
    sounding = threading.Event()  # the first sound is on its way
    blocks: queue.Queue[SpeechEvent | DoneEvent | _Failure] = queue.Queue(_WAITING_BLOCKS)
    out: queue.Queue[Item | _Failure] = queue.Queue(_WAITING_ITEMS)

    def put(target: queue.Queue[_T], item: _T) -> None:
        while not left.is_set():
            try:
                target.put(item, timeout=_POLL_SECONDS)
                return
            except queue.Full:
                continue
        raise _Stopped

    def model() -> None:
        try:
            try:
                for event in events:
                    if not isinstance(event, DoneEvent):
                        put(out, event)
                    if isinstance(event, SpeechEvent | DoneEvent):
                        taken.clear()
                        put(blocks, event)
                        while not (sounding.is_set() or taken.is_set() or left.is_set()):
                            taken.wait(_POLL_SECONDS)
            finally:
                events.close()  # type: ignore[attr-defined]  # in the thread that ran it
        except _Stopped:
            return
        except BaseException as error:
            _try(lambda error=error: put(blocks, _Failure(error)))  # type: ignore[misc]

    def codec() -> None:
        try:
            while True:
                item = _take(blocks, left)
                if isinstance(item, _Failure):
                    put(out, item)  # behind the sound of what was made before
                    return
                if not cancel.is_set():
                    for audio in decode(item):
                        put(out, audio)
                        sounding.set()
                taken.set()
                if isinstance(item, DoneEvent):
                    put(out, item)
                    return
        except _Stopped:
            return
        except BaseException as error:
            _try(lambda error=error: put(out, _Failure(error)))  # type: ignore[misc]
        finally:
            taken.set()

    threads = [
        threading.Thread(target=work, name=name, daemon=True)
        for work, name in zip((model, codec), THREAD_NAMES, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        while True:
            item = out.get()
            if isinstance(item, _Failure):
                raise item.error
            yield item
            if isinstance(item, DoneEvent):
                return
    finally:
        left.set()
        cancel.set()
        for thread in threads:
            thread.join()


def _take(source: queue.Queue[_T], left: threading.Event) -> _T:
    while not left.is_set():
        try:
            return source.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            continue
    raise _Stopped


def _try(put: Callable[[], None]) -> None:
    try:
        put()
    except _Stopped:
        return
