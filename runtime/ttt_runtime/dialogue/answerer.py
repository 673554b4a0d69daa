"""The thread that owns the model in a live conversation: encodes while the user speaks, computes
answers that may be dropped, and keeps what was said and heard.

Everything is asked for by a method that returns at once and done in that order, in one thread; an
answer that is dropped, reopened or interrupted ends before its next forward. What comes of it is
put into a queue as events with their ticket (see `turn_events`).
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ttt_ref.errors import ConfigError, TttError
from ttt_runtime.codec.base import TokenizerStream
from ttt_runtime.dialogue.assistant import Assistant, AudioPart, Reply, TextPart
from ttt_runtime.dialogue.text_stream import least_of

Audio = NDArray[np.float32]
THREAD_NAME: Final = "ttt-answerer"


@dataclass(frozen=True, slots=True)
class Transcript:
    """The line of what the model heard is written."""

    ticket: int
    text: str
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """More of the answer's text."""

    ticket: int
    text: str


@dataclass(frozen=True, slots=True)
class Sound:
    """More of the answer's sound, float32 [T] at the decoder's rate."""

    ticket: int
    audio: Audio


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer is computed to its end, or to where it was cancelled."""

    ticket: int
    reply: Reply
    encode_ms: float


@dataclass(frozen=True, slots=True)
class Failed:
    """An answer could not be computed."""

    ticket: int
    reason: str


@dataclass(frozen=True, slots=True)
class Cut:
    """What was heard of an interrupted answer."""

    ticket: int
    text: str
    seconds: float


AnswerEvent = Transcript | Said | Sound | Answered | Failed | Cut


@dataclass(slots=True)
class _Turn:
    """An answer that was computed, and the conversation before it."""

    ticket: int
    before: tuple[int, ...]
    reply: Reply | None


class Answerer:
    """See the module.

    Args:
        assistant: model and codec of one conversation.
        tell: called in the answerer's thread with each event; must return at once.
        seed: of all draws.
        longest_tokens: a conversation that grew so long begins anew (None: three quarters of what
            the cache holds).
    """

    def __init__(
        self,
        assistant: Assistant,
        tell: Callable[[AnswerEvent], None],
        *,
        seed: int = 0,
        longest_tokens: int | None = None,
    ) -> None:
        if assistant.tokenizer is None:
            raise ConfigError("a conversation needs a bundle with a speech tokenizer")
        assistant.engine.tells_probability = True  # of the transcript: it ends turns
        self._assistant = assistant
        self._tokenizer = assistant.tokenizer
        self._tell = tell
        self._seed = seed
        capacity = assistant.engine.runner.capacity
        self._longest = longest_tokens or capacity * 3 // 4
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._cancels: dict[int, threading.Event] = {}
        # Only the thread touches these.
        self._stream: TokenizerStream | None = None
        self._codes: list[int] = []
        self._history: tuple[int, ...] = ()
        self._turn: _Turn | None = None
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        self._thread.start()

    def warm_up(self) -> None:
        """Compute one answer that nobody hears, so that the first real one is as fast as others."""
        self._jobs.put(self._do_warm_up)

    def begin(self) -> None:
        """A turn begins; what was encoded before is forgotten."""
        self._jobs.put(self._do_begin)

    def hear(self, audio: Audio) -> None:
        """Encode the turn's next audio float32 [T]."""
        self._jobs.put(lambda: self._do_hear(audio))

    def compute(self, ticket: int) -> None:
        """Compute the answer to what was heard so far; the turn may go on afterwards."""
        cancel = self._cancels[ticket] = threading.Event()
        self._jobs.put(lambda: self._do_compute(ticket, cancel))

    def drop(self, ticket: int) -> None:
        """Forget an answer, released or not, as if it never was; the turn goes on."""
        self._stop(ticket)
        self._jobs.put(lambda: self._do_drop(ticket))

    def release(self, ticket: int) -> None:
        """The turn is over: its answer belongs to the conversation."""
        self._jobs.put(lambda: self._do_release(ticket))

    def interrupt(self, ticket: int, played_s: float) -> None:
        """Cut a released answer, conversation and cache, to what was played of it."""
        self._stop(ticket)
        self._jobs.put(lambda: self._do_interrupt(ticket, played_s))

    def forget_conversation(self) -> None:
        """Begin a new conversation with the next turn."""
        self._jobs.put(self._do_forget)

    def close(self) -> None:
        """Cancel, and end the thread."""
        for cancel in list(self._cancels.values()):
            cancel.set()
        self._jobs.put(None)
        self._thread.join(timeout=5.0)

    def wait_idle(self, timeout_s: float = 10.0) -> bool:
        """Wait until all that was asked for is done."""
        done = threading.Event()
        self._jobs.put(done.set)
        return done.wait(timeout_s)

    @property
    def history(self) -> tuple[int, ...]:
        """Ids of the conversation; stable only while nothing is being done."""
        return self._history

    def _stop(self, ticket: int) -> None:
        if (cancel := self._cancels.get(ticket)) is not None:
            cancel.set()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _do_warm_up(self) -> None:
        seconds = np.random.default_rng(0).normal(0, 0.05, self._tokenizer.sample_rate_hz)
        with contextlib.suppress(TttError):
            codes = self._tokenizer.encode(seconds.astype(np.float32)).tolist()
            for part in self._assistant.answer_codes(codes):
                if isinstance(part, AudioPart):
                    break
        self._assistant.engine.reset()

    def _do_begin(self) -> None:
        self._stream = self._tokenizer.stream()
        self._codes = []
        if len(self._history) > self._longest:
            self._do_forget()

    def _do_hear(self, audio: Audio) -> None:
        if self._stream is not None:
            self._codes += self._stream.push(audio).tolist()

    def _do_compute(self, ticket: int, cancel: threading.Event) -> None:
        if self._stream is None or cancel.is_set():
            return
        self._turn = _Turn(ticket, self._history, None)
        begin = time.perf_counter()
        try:
            codes = self._codes + self._stream.fork().finish().tolist()
            encode_ms = (time.perf_counter() - begin) * 1e3
            if not codes:
                self._tell(Failed(ticket, "nothing was said"))
                return
            self._answer(ticket, codes, cancel, encode_ms)
        except TttError as error:
            self._tell(Failed(ticket, str(error)))

    def _answer(
        self, ticket: int, codes: list[int], cancel: threading.Event, encode_ms: float
    ) -> None:
        assistant = self._assistant
        writes_transcript = assistant.prompts.prompts.transcript_first
        first_line, is_told = "", not writes_transcript
        least: float | None = None
        for part in assistant.answer_codes(
            codes, history=self._history, seed=self._seed, cancel=cancel
        ):
            if isinstance(part, TextPart):
                if is_told:
                    self._tell(Said(ticket, part.text))
                    continue
                first_line += part.text
                least = least_of(least, part.probability)
                line, newline, rest = first_line.partition("\n")
                if newline:
                    is_told = True
                    self._tell(Transcript(ticket, line.strip(), least))
                    if rest:
                        self._tell(Said(ticket, rest))
            elif isinstance(part, AudioPart):
                self._tell(Sound(ticket, part.audio))
            else:
                assert self._turn is not None
                self._turn.reply = part
                if not is_told and not cancel.is_set():
                    self._tell(Transcript(ticket, first_line.strip(), least))
                self._tell(Answered(ticket, part, encode_ms))

    def _do_drop(self, ticket: int) -> None:
        self._cancels.pop(ticket, None)
        if self._turn is not None and self._turn.ticket == ticket:
            self._history = self._turn.before
            self._turn = None
        self._assistant.engine.truncate(len(self._history))

    def _do_release(self, ticket: int) -> None:
        turn = self._turn
        if turn is not None and turn.ticket == ticket and turn.reply is not None:
            self._history = turn.reply.history

    def _do_interrupt(self, ticket: int, played_s: float) -> None:
        self._cancels.pop(ticket, None)
        turn = self._turn
        if turn is None or turn.ticket != ticket or turn.reply is None:
            return
        heard = self._assistant.interrupt(turn.reply, max(played_s, 0.0))
        self._history = heard.history
        self._turn = None
        self._tell(Cut(ticket, heard.text, played_s))

    def _do_forget(self) -> None:
        self._history = ()
        self._turn = None
        self._assistant.engine.reset()
