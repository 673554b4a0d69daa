"""Turns that begin and end by themselves: turn-taking's actions, in the Realtime protocol's terms.

    frames -> TurnTaking -> begin, compute (held back), drop, release, interrupt -> events

An answer is computed at the first short silence and held; it is released when the turn is over, and
nobody hears of it when the user goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final

from ttt_runtime.dialogue import turn_events as do
from ttt_runtime.dialogue.assistant import AudioPart, Part, Reply, TextPart
from ttt_runtime.dialogue.text_stream import least_of
from ttt_runtime.dialogue.turn_settings import Onset, TurnSettings
from ttt_runtime.dialogue.turn_taking import TurnTaking
from ttt_runtime.server.audio_formats import Audio
from ttt_runtime.server.conversation import Conversation, Item
from ttt_runtime.server.errors import ApiError
from ttt_runtime.server.ids import new_id
from ttt_runtime.server.listening import Utterance, Utterances
from ttt_runtime.server.realtime.answers import Answers
from ttt_runtime.server.realtime.ears import Ears
from ttt_runtime.server.realtime.outbox import Outbox
from ttt_runtime.server.realtime.response import Listeners
from ttt_runtime.server.realtime.settings import Settings, TurnDetection
from ttt_runtime.server.realtime.user_audio import UserAudio
from ttt_runtime.server.service import EngineService, Turn
from ttt_runtime.server.transcript_split import TranscriptSplit

_LONGEST_TURN_SECONDS: Final = 30.0
# Speech so soon after the end of a turn, where its transcript decided that, continues it.
_REOPEN_SECONDS: Final = 0.6
# A client that sends nothing for so long has paused.
_PAUSE_SECONDS: Final = 2.0
# Silence after which a complete, and an incomplete, utterance is over, by eagerness.
_EAGERNESS_SECONDS: Final = {
    "high": (0.25, 0.6),
    "medium": (0.35, 0.9),
    "auto": (0.35, 0.9),
    "low": (0.6, 1.8),
}
# Where the model is sure of every word, the eager ones wait less.
_SURE_SECONDS: Final = {"high": 0.2, "medium": 0.2, "auto": 0.2, "low": 0.6}


def turn_settings(detection: TurnDetection, *, answers: bool, max_seconds: float) -> TurnSettings:
    """Return turn-taking's numbers for a session's.

    Without answers no transcript is made while the user speaks: silence alone decides then.
    """
    threshold, pre_roll_s = detection.threshold, detection.prefix_ms / 1e3
    complete_s, incomplete_s = _EAGERNESS_SECONDS[detection.eagerness]
    fixed_s = None if detection.semantic else detection.silence_ms / 1e3
    if detection.semantic and not answers:
        fixed_s = incomplete_s
    return TurnSettings(
        quiet=Onset(threshold, 3, pre_roll_s),
        playing=Onset(max(threshold, 0.6), 4, pre_roll_s),
        off_probability=min(0.35, 0.7 * threshold),
        sure_s=_SURE_SECONDS[detection.eagerness],
        complete_s=complete_s,
        incomplete_s=incomplete_s,
        fixed_s=fixed_s,
        reopen_s=_REOPEN_SECONDS if detection.semantic else 0.0,
        longest_turn_s=min(_LONGEST_TURN_SECONDS, max_seconds),
    )


@dataclass(slots=True)
class _Held:
    """An answer that is computed and not told yet."""

    ticket: int
    item: Item
    utterance: Utterance
    turn: Turn | None


class VoiceTurns:
    """One session's turns while turn detection is on. Everything but the ears runs on the loop."""

    def __init__(
        self,
        service: EngineService,
        conversation: Conversation,
        answers: Answers,
        user_audio: UserAudio,
        utterances: Utterances,
        outbox: Outbox,
        ears: Ears,
        settings: Settings,
        max_seconds: float,
        wake: Callable[[], None],
    ) -> None:
        self._service = service
        self._conversation = conversation
        self._answers = answers
        self._user_audio = user_audio
        self._utterances = utterances
        self._outbox = outbox
        self._ears = ears
        self._settings = settings
        self._max_seconds = max_seconds
        self._wake = wake
        self._machine = TurnTaking(self._turn_settings(settings))
        self._is_open = False  # a turn's sound is being encoded
        self._item_id = ""
        self._held: _Held | None = None
        self._told: _Held | None = None  # the newest turn that was released
        self._last_heard_at = monotonic()
        self._timers: set[asyncio.TimerHandle] = set()
        self._pending: deque[do.Action] = deque()  # of what happened between two frames

    def update(self, settings: Settings) -> None:
        """Take over settings; a turn that is on its way goes on."""
        self._settings = settings
        self._machine.settings = self._turn_settings(settings)

    async def hear(self, audio: Audio) -> None:
        """Take in the user's sound, float32 [t] at 16 kHz."""
        self._last_heard_at = monotonic()
        for frame, voice in await self._service.hear(lambda: self._ears.judge(audio)):
            await self.settle()
            if self._is_open:
                await self._encode(frame)
            await self._do(self._machine.frame(voice), voice.end_s)

    async def settle(self) -> None:
        """Do what waits to be done; `wake` asks for it."""
        while self._pending:
            await self._do([self._pending.popleft()], self._ears.seconds)

    def clear(self) -> None:
        """Forget what the user says at the moment; an answer goes on."""
        self._machine.reset(self._ears.seconds)
        self._pending.clear()
        self._drop_held()
        self._is_open = False

    async def take(self) -> Utterance:
        """End the turn by the client's word; return what was said of it."""
        was_open = self._is_open
        self.clear()
        utterance = await self._service.hear(self._utterances.take)
        return utterance if was_open else Utterance((), 0.0)

    async def tick(self) -> None:
        """Hold the limits of a client that stopped sending."""
        quiet_seconds = monotonic() - self._last_heard_at
        if quiet_seconds < _PAUSE_SECONDS:
            return
        now_s = self._ears.seconds + quiet_seconds
        await self._do(self._machine.tick(now_s), self._ears.seconds)

    def close(self) -> None:
        """Forget the turn and its answer."""
        self._drop_held()
        for timer in self._timers:
            timer.cancel()

    def _turn_settings(self, settings: Settings) -> TurnSettings:
        assert settings.turn_detection is not None
        return turn_settings(
            settings.turn_detection,
            answers=self._computes_ahead(settings),
            max_seconds=self._max_seconds,
        )

    @staticmethod
    def _computes_ahead(settings: Settings) -> bool:
        detection = settings.turn_detection
        return not settings.only_transcribes and detection is not None and detection.create_response

    async def _encode(self, audio: Audio) -> None:
        utterances = self._utterances
        await self._service.hear(lambda: utterances.push(audio))

    async def _do(self, actions: list[do.Action], now_s: float) -> None:
        for action in actions:
            match action:
                case do.BeginTurn(from_s):
                    await self._begin(from_s, now_s)
                case do.Compute(ticket, _):
                    await self._compute(ticket)
                case do.Drop(_):
                    self._drop_held()
                case do.Release(ticket, speech_end_s, _):
                    await self._release(ticket, speech_end_s)
                case do.Interrupt(_):
                    self._interrupt()
                case do.Reopen(_):
                    await self._reopen(now_s)
                case do.Abandon():
                    self._drop_held()
                    self._is_open = False
                    self._tell_stopped(now_s)
                case _:
                    continue

    async def _begin(self, from_s: float, now_s: float) -> None:
        """Speech began; it may interrupt an answer to what was typed."""
        self._interrupt()
        self._item_id = new_id("item")
        utterances, ears = self._utterances, self._ears

        def begin() -> None:
            utterances.clear()
            utterances.push(ears.since(from_s, now_s))

        await self._service.hear(begin)
        self._is_open = True
        self._tell_started(from_s)

    async def _compute(self, ticket: int) -> None:
        utterance = await self._service.hear(self._utterances.so_far)
        item = self._user_audio.item_of(utterance, self._item_id)
        self._held = _Held(ticket, item, utterance, None)
        if not self._computes_ahead(self._settings):
            return
        if not utterance.codes:
            self._later(self._machine.heard(ticket, ""))
            return
        split = TranscriptSplit(self._service.assistant.prompts.prompts.transcript_first)
        first_line = ""
        least: float | None = None

        def watch(part: Part) -> None:
            nonlocal first_line, least
            machine = self._machine
            if isinstance(part, TextPart) and not split.is_over:
                heard, _ = split.push(part.text)
                first_line += heard
                least = least_of(least, part.probability)
                if split.is_over:
                    self._later(machine.heard(ticket, first_line, least))
            elif isinstance(part, AudioPart):
                self._later(machine.sound(ticket))
            elif isinstance(part, Reply):
                self._later(machine.heard(ticket, part.heard or part.text, least))

        # Without room in the queue the answer is begun when the turn is over.
        with contextlib.suppress(ApiError):
            items = [*self._conversation.items, item]
            self._held.turn = self._answers.begin_turn(self._settings, items, watch)

    async def _release(self, ticket: int, speech_end_s: float) -> None:
        held, self._held = self._held, None
        assert held is not None
        decided_at = monotonic()
        self._is_open = False
        self._tell_stopped(speech_end_s)
        self._user_audio.commit(held.item, held.utterance.seconds, self._settings)
        self._told = held
        if not self._computes_ahead(self._settings) or self._answers.is_answering:
            self._later(self._machine.finished(ticket))
            return
        if held.turn is not None:
            self._service.metrics.speculation.add(outcome="used")

        def ended(unplayed_seconds: float) -> None:
            self._after(unplayed_seconds, ticket)

        await self._answers.answer(
            self._settings,
            list(self._conversation.items),
            turn=held.turn,
            decided_at=decided_at,
            listeners=Listeners(lambda: self._later(self._machine.sound(ticket)), ended),
        )

    def _interrupt(self) -> None:
        detection = self._settings.turn_detection
        if detection is not None and detection.interrupt_response and self._answers.is_answering:
            self._answers.stop("turn_detected")

    async def _reopen(self, now_s: float) -> None:
        """The answer came too early: the user's turn goes on, and both items of it vanish."""
        told, self._told = self._told, None
        self._answers.stop("turn_detected")
        await self._answers.end()
        names = {told.item.id} if told is not None else set()
        if self._answers.newest is not None:
            names.add(self._answers.newest.id)
        for item in [item for item in self._conversation.items if item.id in names]:
            self._conversation.delete(item.id)
            self._outbox.emit("conversation.item.deleted", item_id=item.id)
        self._item_id = new_id("item")
        self._is_open = True
        utterance = await self._service.hear(self._utterances.so_far)
        self._tell_started(max(now_s - utterance.seconds, 0.0))

    def _drop_held(self) -> None:
        held, self._held = self._held, None
        if held is not None and held.turn is not None:
            held.turn.cancel()
            self._service.metrics.speculation.add(outcome="dropped")

    def _tell_started(self, from_s: float) -> None:
        self._outbox.emit(
            "input_audio_buffer.speech_started",
            item_id=self._item_id,
            audio_start_ms=int(from_s * 1e3),
        )

    def _tell_stopped(self, at_s: float) -> None:
        self._outbox.emit(
            "input_audio_buffer.speech_stopped",
            item_id=self._item_id,
            audio_end_ms=int(at_s * 1e3),
        )

    def _later(self, actions: list[do.Action]) -> None:
        """Do what came of something that happened between two frames, with the next of them."""
        self._pending.extend(actions)
        if actions:
            self._wake()

    def _after(self, seconds: float, ticket: int) -> None:
        """Tell the machine that an answer was played, when it will have been."""
        loop = asyncio.get_running_loop()

        def finished() -> None:
            self._timers.discard(timer)
            self._later(self._machine.finished(ticket))

        timer = loop.call_later(seconds, finished)
        self._timers.add(timer)
