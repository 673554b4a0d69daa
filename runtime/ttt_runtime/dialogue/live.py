"""A live conversation: microphone blocks in, playback and events out.

    block -> front end -> turn-taking -> actions: encode, compute, play, duck, stop, cut
                             ^
              the answerer's events: transcript, sound, end

Everything here runs in the thread that calls it, but for the model, which has its own. No sound
card and no clock is needed: time is the microphone's.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import Final

import numpy as np

from ttt_ref.errors import AudioError
from ttt_runtime.audio.echo import RATE_HZ, Pcm
from ttt_runtime.audio.front_end import CleanFrame, FrontEnd
from ttt_runtime.audio.leading_silence import LeadingSilence
from ttt_runtime.audio.level_control import LevelControl
from ttt_runtime.audio.playback import Playback
from ttt_runtime.audio.resampler import Resampler
from ttt_runtime.audio.sound_memory import SoundMemory
from ttt_runtime.audio.wake_word import WakeWord
from ttt_runtime.dialogue.answerer import (
    Answered,
    Answerer,
    AnswerEvent,
    Cut,
    Failed,
    Said,
    Sound,
    Transcript,
)
from ttt_runtime.dialogue.assistant import Assistant
from ttt_runtime.dialogue.live_events import Kind, LiveEvent
from ttt_runtime.dialogue.live_turn import LiveTurn
from ttt_runtime.dialogue.turn_events import (
    Abandon,
    Action,
    BeginTurn,
    Compute,
    Drop,
    Duck,
    Enter,
    Interrupt,
    Phase,
    Release,
    Reopen,
    Unduck,
)
from ttt_runtime.dialogue.turn_settings import TurnSettings
from ttt_runtime.dialogue.turn_taking import TurnTaking

_REMEMBERED_S: Final = 75.0  # longer than the longest turn, its pre-roll and what may reopen it


class LiveConversation:
    """See the module.

    Args:
        assistant: model and codec.
        front_end: cleans and judges the microphone.
        playback: what the loudspeaker takes from, at 16 kHz.
        settings: of turn-taking.
        tell: called with each event, in the caller's thread.
        wake_word: needed in the mode wake_word.
        output_latency_s: asked when an answer is cut: seconds from the card's buffer to the air.
        keep: called with each finished turn (for recordings).
        seed: of all draws.
    """

    def __init__(
        self,
        assistant: Assistant,
        front_end: FrontEnd,
        playback: Playback,
        settings: TurnSettings,
        tell: Callable[[LiveEvent], None],
        *,
        wake_word: WakeWord | None = None,
        output_latency_s: Callable[[], float] = lambda: 0.0,
        keep: Callable[[LiveTurn], None] | None = None,
        seed: int = 0,
    ) -> None:
        if settings.mode == "wake_word" and wake_word is None:
            raise AudioError("the mode wake_word needs a wake word; give one, or another mode")
        self.machine = TurnTaking(settings)
        self.front_end = front_end
        self.playback = playback
        self._tell = tell
        self._wake_word = wake_word
        self._latency_s = output_latency_s
        self._keep = keep
        self._events: queue.SimpleQueue[AnswerEvent] = queue.SimpleQueue()
        self.answerer = Answerer(assistant, self._events.put, seed=seed)
        self.answerer.warm_up()
        self._rate_hz = RATE_HZ if assistant.decoder is None else assistant.decoder.sample_rate_hz
        assert assistant.tokenizer is not None
        self._encode_hz = assistant.tokenizer.sample_rate_hz
        chain = assistant.input_chain
        self._level = LevelControl(None if chain is None else chain.settings.level_db)
        self._memory = SoundMemory(RATE_HZ, _REMEMBERED_S)
        self._to_codec: Resampler | None = None
        self._encoded_s: float | None = None  # the turn is encoded up to here
        self._turn: LiveTurn | None = None
        self._begin_s = 0.0
        self._silence = LeadingSilence(RATE_HZ)
        self._to_card = Resampler(self._rate_hz, RATE_HZ)
        self.level_db = -120.0

    @property
    def phase(self) -> Phase:
        """Where the conversation is."""
        return self.machine.phase

    def block(self, mic: Pcm, played: Pcm) -> None:
        """Take what was heard and what was played in the same moment, int16 [T] at 16 kHz."""
        if self._wake_word is not None and self._wake_word.push(mic):
            self._wake_word.reset()
            self._do(self.machine.wake(self.front_end.seconds))
        for frame in self.front_end.push(mic, played):
            self._frame(frame)
        self.pump()

    def pump(self) -> None:
        """Take in what the answerer has to tell, and the end of playback."""
        while not self._events.empty():
            self._answer_event(self._events.get())
        turn = self._turn
        if turn is None or not turn.is_released:
            return
        if turn.first_sound_s is None and (began := self.playback.began_s(turn.ticket)):
            turn.first_sound_s = began
            self._tell_event("turn", turn.figures(self._latency_s()))
        if turn.is_computed and self.playback.is_over(turn.ticket):
            self._finish(turn)

    def key_down(self) -> None:
        """The talk key was pressed."""
        self._do(self.machine.key_down(self.front_end.seconds))

    def key_up(self) -> None:
        """The talk key was let go."""
        self._do(self.machine.key_up(self.front_end.seconds))

    def device_lost(self) -> None:
        """Microphone or loudspeaker is gone."""
        self._do(self.machine.device_lost(self.front_end.seconds))

    def device_back(self) -> None:
        """They are there; the room may be another."""
        self.front_end.reset()
        self._level.reset()
        self._do(self.machine.device_back(self.front_end.seconds))

    def reset(self) -> None:
        """Forget turn and conversation."""
        self._do(self.machine.reset(self.front_end.seconds))
        self.answerer.forget_conversation()

    def close(self) -> None:
        """Stop whatever goes on."""
        self._do(self.machine.reset(self.front_end.seconds))
        self.answerer.close()

    # --- what turn-taking asks for

    def _frame(self, frame: CleanFrame) -> None:
        self._memory.push(self._level.push(frame.audio, frame.voice.probability))
        self.level_db = frame.voice.level_db
        actions = self.machine.frame(frame.voice)
        if self.machine.phase is Phase.SPEAKING and not actions:
            self._encode()
        self._do(actions)

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            self._do_one(action)

    def _do_one(self, action: Action) -> None:
        if isinstance(action, BeginTurn):
            self._begin_s = self._encoded_s = action.from_s
            self._to_codec = Resampler(RATE_HZ, self._encode_hz)
            self.answerer.begin()
            self._encode()
        elif isinstance(action, Compute):
            self._encode()
            self._turn = LiveTurn(action.ticket, self._begin_s, computed_s=time.perf_counter())
            self._silence = LeadingSilence(RATE_HZ)
            self._to_card = Resampler(self._rate_hz, RATE_HZ)
            self.answerer.compute(action.ticket)
        elif isinstance(action, Drop | Reopen):
            self._forget(action.ticket)
            self._tell_event(
                "dropped" if isinstance(action, Drop) else "reopened", {"turn": action.ticket}
            )
        elif isinstance(action, Release):
            self._release(action)
        elif isinstance(action, Interrupt):
            self._interrupt(action.ticket)
        elif isinstance(action, Duck):
            self.playback.duck()
        elif isinstance(action, Unduck):
            self.playback.unduck()
        elif isinstance(action, Abandon):
            if action.ticket is not None:
                self._forget(action.ticket)
            self._tell_event("abandoned", {"why": action.why})
        elif isinstance(action, Enter):
            self._tell_event("state", {"state": action.phase.value})

    def _encode(self) -> None:
        """Hand what the turn has been heard of further to the encoder."""
        if self._encoded_s is None or self._to_codec is None:
            return
        audio = self._memory.since(self._encoded_s)
        self._encoded_s = self._memory.seconds
        if len(audio):
            self.answerer.hear(self._to_codec.push(audio))

    def _forget(self, ticket: int) -> None:
        self.playback.forget(ticket)
        self.answerer.drop(ticket)
        self._turn = None

    def _release(self, action: Release) -> None:
        turn = self._turn
        assert turn is not None
        assert turn.ticket == action.ticket
        turn.release(self.front_end.seconds - action.speech_end_s, action.why)
        if self._keep is not None:
            turn.question = self._memory.since(turn.begin_s)
        self.playback.release(action.ticket)
        self.answerer.release(action.ticket)

    def _interrupt(self, ticket: int) -> None:
        turn = self._turn
        given_s = self.playback.played_samples(ticket) / RATE_HZ
        heard_s = max(given_s - self._latency_s(), 0.0)
        self.playback.forget(ticket)
        if turn is not None and turn.ticket == ticket:
            turn.played_s = heard_s
            self._kept(turn)
        self.answerer.interrupt(ticket, heard_s + self._silence.dropped_s if heard_s else 0.0)
        self._turn = None

    def _finish(self, turn: LiveTurn) -> None:
        self._turn = None
        turn.played_s = self.playback.played_samples(turn.ticket) / RATE_HZ
        self.playback.forget(turn.ticket)
        self._tell_event("finished", {"turn": turn.ticket, "text": turn.text.strip()})
        self._kept(turn)
        self._do(self.machine.finished(turn.ticket))

    # --- what the answerer tells

    def _answer_event(self, event: AnswerEvent) -> None:
        if isinstance(event, Cut):
            fields = {"turn": event.ticket, "text": event.text, "played_s": round(event.seconds, 3)}
            self._tell_event("interrupted", fields)
            return
        turn = self._turn
        if turn is None or turn.ticket != event.ticket:
            return  # of an answer that was dropped meanwhile
        if isinstance(event, Transcript):
            turn.transcript = event.text
            self._tell_event("transcript", {"turn": turn.ticket, "text": event.text})
            self._do(self.machine.heard(turn.ticket, event.text, event.probability))
        elif isinstance(event, Said):
            turn.text += event.text
            self._tell_event("text", {"turn": turn.ticket, "text": event.text})
        elif isinstance(event, Sound):
            self._play(turn, self._silence.push(self._to_card.push(event.audio)))
        elif isinstance(event, Answered):
            rest = self._silence.push(self._to_card.finish())
            self._play(turn, rest)
            turn.answered(event)
            self.playback.end(turn.ticket)
        elif isinstance(event, Failed):
            self._tell_event("error", {"reason": event.reason})
            self._do(self.machine.failed(turn.ticket))

    def _play(self, turn: LiveTurn, audio: np.ndarray) -> None:
        if not len(audio):
            return
        try:
            self.playback.append(turn.ticket, audio)
        except AudioError as error:
            self._tell_event("error", {"reason": str(error)})
            return
        if self._keep is not None:
            turn.answer.append(audio)
        if turn.sound_s is None:
            turn.sound_s = time.perf_counter()
            self._do(self.machine.sound(turn.ticket))

    def _kept(self, turn: LiveTurn) -> None:
        if self._keep is not None:
            self._keep(turn)

    def _tell_event(self, kind: Kind, fields: dict[str, object]) -> None:
        self._tell(LiveEvent(kind, self.front_end.seconds, fields))
