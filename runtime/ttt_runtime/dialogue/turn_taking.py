"""Who speaks now: turn-taking of a spoken conversation, without audio, clock or thread.

Events come in, actions come out; time is the microphone's, in seconds, and comes with the events.
So the same machine serves the sound card, a network session and a simulation.

    machine = TurnTaking(TurnSettings())
    for frame in front_end:                   # `audio.voice_frame.VoiceFrame`, 32 ms each
        for action in machine.frame(frame):
            ...                               # see `dialogue.turn_events`

What the surroundings tell, beside frames: `heard` (the transcript's line is written), `sound` (the
answer has its first sound), `finished` (all of it was played, or there was nothing to play),
`failed`; `key_down`, `key_up`, `wake`; `device_lost`, `device_back`, `reset` (a connection is
gone); and `tick` where frames may stop coming. Each returns the actions to be done now.

    LISTENING --speech--> SPEAKING --a short silence-> THINKING --its first sound--> HELD
        ^                    ^                              |   goes on: Drop            |
        |                    +------------------------------+----------------------------+
        |                                                   | silence: Release           |
        +--finished-- PLAYING <-----------------------------+----------------------------+
                        |  ^ nothing: Unduck
                        v  |
                    INTERRUPTED --it is speech: Interrupt (Reopen, just after Release)--> SPEAKING

Who has no playback of his own (a server) calls `sound` at his first sample sent and `finished`
when its last would have been played; who computes only when the turn is over ignores `Compute`,
`Drop`, and computes at `Release`.
"""

from __future__ import annotations

from ttt_runtime.audio.voice_frame import VoiceFrame
from ttt_runtime.dialogue.end_of_turn import EndOfTurn
from ttt_runtime.dialogue.turn_events import (
    Abandon,
    Abandoned,
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
    TurnEnd,
    Unduck,
)
from ttt_runtime.dialogue.turn_settings import TurnSettings

_FORGIVEN_FRAMES = 1  # frames in a row that may fall below the threshold within an onset


class TurnTaking:
    """The state of one conversation; see the module."""

    def __init__(self, settings: TurnSettings | None = None) -> None:
        self.settings = settings or TurnSettings()
        self._out: list[Action] = []
        self._now = 0.0
        self._phase = self._resting_phase()
        self._phase_since = 0.0
        # The beginning of speech that is being watched.
        self._onset_frames = 0
        self._onset_misses = 0
        self._onset_s = 0.0
        self._not_before = 0.0  # audio before it belongs to no turn
        # The turn.
        self._begin_s = 0.0
        self._speech_s = 0.0  # speech in it
        self._speech_end_s: float | None = None
        self._key_held = False
        # Its answer.
        self._ticket = 0
        self._end = EndOfTurn()
        self._has_sound = False
        self._is_finished = False
        self._released_s: float | None = None
        self._released_by: TurnEnd = "complete"
        self._may_interrupt = True  # False until the user falls silent once

    @property
    def phase(self) -> Phase:
        """Where the conversation is."""
        return self._phase

    @property
    def ticket(self) -> int:
        """The newest computation's."""
        return self._ticket

    @property
    def complete_s(self) -> float:
        """Silence that ends a turn whose transcript reads complete, with what was learnt."""
        return self._end.needed_s(self.settings)

    def frame(self, frame: VoiceFrame) -> list[Action]:
        """Take in the microphone's next frame."""
        self._now = frame.end_s
        if self._phase is Phase.LISTENING:
            self._listen(frame)
        elif self._phase is Phase.SPEAKING:
            self._speak(frame)
        elif self._phase in (Phase.THINKING, Phase.HELD):
            self._wait(frame)
        elif self._phase in (Phase.PLAYING, Phase.INTERRUPTED):
            self._play(frame)
        self._limits()
        return self._take()

    def tick(self, now_s: float) -> list[Action]:
        """Let time pass without a frame: limits are held even when no sound comes in."""
        self._now = max(self._now, now_s)
        self._limits()
        return self._take()

    def key_down(self, now_s: float) -> list[Action]:
        """The talk key was pressed: a turn begins, whatever was playing."""
        self._now = now_s
        is_asked = self.settings.mode == "push_to_talk" and not self._key_held
        if is_asked and self._phase is not Phase.DEAF:
            self._stop_answer()
            self._key_held = True
            self._begin_turn(now_s)
        return self._take()

    def key_up(self, now_s: float) -> list[Action]:
        """The talk key was let go: the turn is over."""
        self._now = now_s
        if self._key_held:
            self._key_held = False
            if now_s - self._begin_s < self.settings.shortest_key_s:
                self._abandon("slip")
            else:
                self._end_turn("key")
        return self._take()

    def wake(self, now_s: float) -> list[Action]:
        """The wake word was heard; what was said before it, and it, belong to no turn."""
        self._now = now_s
        if self._phase in (Phase.ASLEEP, Phase.PLAYING, Phase.INTERRUPTED):
            self._stop_answer()
            self._not_before = now_s
            self._enter(Phase.LISTENING)
        return self._take()

    def heard(self, ticket: int, transcript: str, probability: float | None = None) -> list[Action]:
        """The line of the question's transcript is written.

        Args:
            ticket: of the computation.
            transcript: what the model heard.
            probability: the least that it gave a token of it; None: not known.
        """
        if self._is_current(ticket):
            self._end.heard(transcript, probability)
            if self._phase in (Phase.THINKING, Phase.HELD) and not self._onset_frames:
                self._release_if_over()
        return self._take()

    def sound(self, ticket: int) -> list[Action]:
        """The answer's first sound exists."""
        if self._is_current(ticket):
            self._has_sound = True
            if self._phase is Phase.THINKING:
                self._enter(Phase.HELD if self._released_s is None else Phase.PLAYING)
        return self._take()

    def finished(self, ticket: int) -> list[Action]:
        """The answer was played to its end, or has no sound at all."""
        if self._is_current(ticket):
            self._is_finished = True
            if self._released_s is not None:
                self._rest_after_answer()
        return self._take()

    def failed(self, ticket: int, why: Abandoned = "failed") -> list[Action]:
        """The answer could not be computed, or there is nothing to answer."""
        if self._is_current(ticket):
            self._abandon(why)
        return self._take()

    def device_lost(self, now_s: float) -> list[Action]:
        """The microphone or loudspeaker is gone."""
        self._now = now_s
        if self._phase is not Phase.DEAF:
            self._give_up("device")
            self._enter(Phase.DEAF)
        return self._take()

    def device_back(self, now_s: float) -> list[Action]:
        """Both are there again; what was said before is forgotten."""
        self._now = now_s
        if self._phase is Phase.DEAF:
            self._not_before = now_s
            self._enter(self._resting_phase())
        return self._take()

    def reset(self, now_s: float) -> list[Action]:
        """Whoever spoke is gone: forget the turn, stop the answer, be as at the beginning."""
        self._now = now_s
        if self._phase is not Phase.DEAF:
            self._give_up("reset")
            self._end.reset()
            self._not_before = now_s
            self._enter(self._resting_phase())
        return self._take()

    # --- phases

    def _listen(self, frame: VoiceFrame) -> None:
        onset = self.settings.quiet
        if self._onset(frame, is_speech=frame.probability >= onset.probability) < onset.frames:
            return
        self._begin_turn(self._onset_s)

    def _speak(self, frame: VoiceFrame) -> None:
        settings = self.settings
        if frame.probability >= settings.off_probability:
            self._speech_s += frame.seconds
            self._speech_end_s = frame.end_s
        longest = settings.longest_held_key_s if self._key_held else settings.longest_turn_s
        if self._now - self._begin_s >= longest:
            self._key_held = False
            self._end_turn("longest")
            self._may_interrupt = self._silence_s() > 0
        elif self._silence_s() >= min(settings.speculate_s, settings.fixed_s or 3600.0):
            self._compute()

    def _wait(self, frame: VoiceFrame) -> None:
        """Thinking or held: does the user go on, or is the turn over?"""
        is_speech = frame.probability >= self.settings.quiet.probability
        frames = self._onset(frame, is_speech=is_speech, forgiven=0)
        if not is_speech:
            self._may_interrupt = True
        if frames and self._may_interrupt and frames >= self.settings.resume_frames:
            self._go_on(frame)
        elif not frames:
            self._release_if_over()

    def _play(self, frame: VoiceFrame) -> None:
        """Playing: does somebody speak over it?"""
        settings = self.settings
        if settings.mode == "push_to_talk":
            return
        likely = frame.probability >= settings.playing.probability
        if not self._may_interrupt:
            self._may_interrupt = not likely
            return
        is_speech = likely and frame.level_db >= frame.echo_db + settings.over_echo_db
        frames = self._onset(frame, is_speech=is_speech)
        if frames >= settings.playing.frames:
            if self._onset_s - (self._released_s or 0.0) <= settings.reopen_s:
                self._go_on(frame)
            else:
                begin_s = self._onset_s
                self._stop_answer()
                self._begin_turn(begin_s)
        elif frames and self._phase is Phase.PLAYING:
            self._out.append(Duck())
            self._enter(Phase.INTERRUPTED)
        elif not frames and self._phase is Phase.INTERRUPTED:
            self._out.append(Unduck())
            self._enter(Phase.PLAYING)

    def _limits(self) -> None:
        """What no state may exceed."""
        settings, since = self.settings, self._now - self._phase_since
        if self._phase is Phase.LISTENING and settings.mode == "wake_word":
            if since >= settings.no_speech_s and not self._onset_frames:
                self._out.append(Abandon(None, "no_speech"))
                self._enter(Phase.ASLEEP)
        elif self._phase is Phase.SPEAKING:
            # Frames stopped coming in the middle of a turn.
            longest = max(settings.longest_turn_s, settings.longest_held_key_s)
            if self._now - self._begin_s > longest + settings.no_speech_s:
                self._abandon("no_speech")
        elif self._phase is Phase.THINKING:
            if since >= settings.longest_thought_s:
                self._abandon("no_answer")
        elif self._released_s is not None and self._answer_is_too_long(self._released_s):
            self._stop_answer()
            self._enter(self._resting_phase())

    def _answer_is_too_long(self, released_s: float) -> bool:
        return self._now - released_s >= self.settings.longest_answer_s

    # --- steps

    def _onset(
        self, frame: VoiceFrame, *, is_speech: bool, forgiven: int = _FORGIVEN_FRAMES
    ) -> int:
        """Count the frames of what may be speech; 0 when it was none."""
        if is_speech:
            if not self._onset_frames:
                self._onset_s = frame.end_s - frame.seconds
            self._onset_frames += 1
            self._onset_misses = 0
        elif self._onset_frames:
            self._onset_misses += 1
            if self._onset_misses > forgiven:
                self._forget_onset()
        return self._onset_frames

    def _forget_onset(self) -> None:
        self._onset_frames = self._onset_misses = 0

    def _begin_turn(self, from_s: float) -> None:
        over_sound = self._phase in (Phase.PLAYING, Phase.INTERRUPTED)
        onset = self.settings.playing if over_sound else self.settings.quiet
        begin_s = max(from_s - onset.pre_roll_s, self._not_before, 0.0)
        seen_s = self._now - from_s if self._onset_frames else 0.0
        self._forget_onset()
        self._begin_s = from_s
        self._speech_s = seen_s
        self._speech_end_s = self._now if seen_s else None
        self._forget_answer()
        self._out.append(BeginTurn(begin_s))
        self._enter(Phase.SPEAKING)

    def _compute(self) -> None:
        self._ticket += 1
        self._forget_answer()
        self._forget_onset()
        self._may_interrupt = True
        self._out.append(Compute(self._ticket, self._now))
        self._enter(Phase.THINKING)

    def _go_on(self, frame: VoiceFrame) -> None:
        """The user goes on: the turn is open again, its answer forgotten."""
        if self._released_s is None:
            self._out.append(Drop(self._ticket))
        else:
            if self._released_by == "complete":
                self._end.was_too_early(self.settings)
            self._out.append(Reopen(self._ticket))
        self._speech_s += frame.end_s - self._onset_s
        self._speech_end_s = frame.end_s
        self._forget_onset()
        self._forget_answer()
        self._enter(Phase.SPEAKING)

    def _release_if_over(self) -> None:
        if self._released_s is not None or self._key_held:
            return
        verdict = self._end.verdict(self.settings, self._silence_s(), self._speech_s)
        if verdict == "nothing":
            self._abandon("no_speech")
        elif verdict is not None:
            self._release(verdict)

    def _end_turn(self, why: TurnEnd) -> None:
        """End the turn now, computed or not."""
        if self._phase is Phase.SPEAKING:
            self._compute()
        if self._phase in (Phase.THINKING, Phase.HELD):
            self._release(why)

    def _release(self, why: TurnEnd) -> None:
        self._released_s, self._released_by = self._now, why
        end_s = self._now
        if self._speech_end_s is not None:
            end_s = max(self._speech_end_s - self.settings.voice_lag_s, self._begin_s)
        self._out.append(Release(self._ticket, end_s, why))
        self._forget_onset()
        if self._is_finished:
            self._rest_after_answer()
        elif self._has_sound:
            self._enter(Phase.PLAYING)

    def _rest_after_answer(self) -> None:
        self._end.was_right(self.settings)
        if self._phase is Phase.INTERRUPTED:  # what begins may still be the user's next turn
            self._out.append(Unduck())
        else:
            self._forget_onset()
        self._ticket += 1  # nothing more can come of this answer
        self._forget_answer()
        asleep = self.settings.mode == "push_to_talk"
        self._enter(Phase.ASLEEP if asleep else Phase.LISTENING)

    def _stop_answer(self) -> None:
        """Stop what plays or was released; forget a turn that was still open."""
        if self._released_s is not None:
            self._out.append(Interrupt(self._ticket))
        elif self._phase in (Phase.SPEAKING, Phase.THINKING, Phase.HELD):
            computed = self._phase is not Phase.SPEAKING
            self._out.append(Abandon(self._ticket if computed else None, "reset"))
        self._ticket += 1
        self._forget_answer()

    def _give_up(self, why: Abandoned) -> None:
        """Leave whatever goes on, without a new turn."""
        self._key_held = False
        if self._phase in (Phase.PLAYING, Phase.INTERRUPTED) or self._released_s is not None:
            self._stop_answer()
        elif self._phase in (Phase.SPEAKING, Phase.THINKING, Phase.HELD):
            self._abandon(why)
        self._forget_onset()

    def _abandon(self, why: Abandoned) -> None:
        computed = self._phase is not Phase.SPEAKING
        self._key_held = False
        self._out.append(Abandon(self._ticket if computed else None, why))
        self._ticket += 1
        self._forget_answer()
        self._forget_onset()
        self._enter(self._resting_phase())

    def _forget_answer(self) -> None:
        self._end.forget()
        self._has_sound = self._is_finished = False
        self._released_s = None

    def _resting_phase(self) -> Phase:
        return Phase.LISTENING if self.settings.mode == "hands_free" else Phase.ASLEEP

    def _silence_s(self) -> float:
        """Silence so far, counted from when the user fell silent; 0 while he speaks."""
        if self._speech_end_s is None or self._now <= self._speech_end_s:
            return 0.0
        return self._now - self._speech_end_s + self.settings.voice_lag_s

    def _is_current(self, ticket: int) -> bool:
        answered = (Phase.THINKING, Phase.HELD, Phase.PLAYING, Phase.INTERRUPTED)
        return ticket == self._ticket and self._phase in answered

    def _enter(self, phase: Phase) -> None:
        if phase is not self._phase or phase is Phase.LISTENING:
            self._phase_since = self._now
            self._out.append(Enter(phase))
        self._phase = phase

    def _take(self) -> list[Action]:
        out, self._out = self._out, []
        return out
