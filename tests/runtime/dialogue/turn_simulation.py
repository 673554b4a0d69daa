"""Turn-taking on simulated time: a script of who speaks when, and an answerer with known delays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ttt_runtime.audio.voice_frame import SILENT_DB, VoiceFrame
from ttt_runtime.dialogue.turn_events import (
    Action,
    Compute,
    Duck,
    Enter,
    Interrupt,
    Phase,
    Reopen,
    Unduck,
)
from ttt_runtime.dialogue.turn_settings import TurnSettings
from ttt_runtime.dialogue.turn_taking import TurnTaking

FRAME_S = 0.032


@dataclass
class Answerer:
    """How long an answer takes, and what the transcript of the turn says."""

    transcript: str = "what day comes after monday"
    transcript_after_s: float = 0.03
    sound_after_s: float | None = 0.05
    answer_s: float = 2.0


@dataclass
class Simulation:
    """Drives a machine frame by frame; `log` holds (time, action)."""

    settings: TurnSettings = field(default_factory=TurnSettings)
    answerer: Answerer = field(default_factory=Answerer)
    echo_probability: float = 0.0  # what the detector says of our own sound
    echo_level_db: float = SILENT_DB
    frame_s: float = FRAME_S

    def __post_init__(self) -> None:
        self.machine = TurnTaking(self.settings)
        self.now = 0.0
        self.log: list[tuple[float, Action]] = []
        self.gain = 1.0
        self.plays: int | None = None
        self.played: dict[int, float] = {}  # seconds played of each answer
        self.events: list[tuple[float, Callable[[], list[Action]]]] = []
        self._left = 0.0

    def run(
        self,
        until_s: float,
        speech: Sequence[tuple[float, float]] = (),
        probability: float = 0.95,
        level_db: float = -25.0,
        *,
        frames: bool = True,
    ) -> Simulation:
        """Let time pass; the user speaks in the given intervals."""
        while self.now + self.frame_s <= until_s + 1e-9:
            self.now += self.frame_s
            middle = self.now - self.frame_s / 2
            middle -= self.settings.voice_lag_s  # the detector hears late
            spoken = any(a <= middle < b for a, b in speech)
            echo = self.plays is not None
            heard = max(probability if spoken else 0.02, self.echo_probability if echo else 0.0)
            level = max(level_db if spoken else -70.0, self.echo_level_db if echo else -120.0)
            if frames:
                self._do(
                    self.machine.frame(
                        VoiceFrame(
                            self.now,
                            self.frame_s,
                            heard,
                            level,
                            self.echo_level_db if echo else SILENT_DB,
                        )
                    )
                )
            else:
                self._do(self.machine.tick(self.now))
            self._advance_playback()
            due = [event for event in self.events if event[0] <= self.now]
            for event in due:
                self.events.remove(event)
                self._do(event[1]())
        return self

    def at(self, time_s: float, event: Callable[[float], list[Action]]) -> Simulation:
        """Plan an event such as `machine.key_down` for a time."""
        self.events.append((time_s, lambda: event(self.now)))
        return self

    def of(self, *kinds: type) -> list[tuple[float, Action]]:
        """The actions of these kinds, with their times."""
        return [(t, a) for t, a in self.log if isinstance(a, kinds)]

    def names(self) -> list[str]:
        """Names of all actions, the changes of phase left out."""
        return [type(a).__name__ for _, a in self.log if not isinstance(a, Enter)]

    @property
    def phase(self) -> Phase:
        return self.machine.phase

    def _advance_playback(self) -> None:
        if self.plays is None:
            return
        self.played[self.plays] = self.played.get(self.plays, 0.0) + self.frame_s
        self._left -= self.frame_s
        if self._left <= 0:
            ticket, self.plays = self.plays, None
            self._do(self.machine.finished(ticket))

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            self.log.append((self.now, action))
            if isinstance(action, Compute):
                self._compute(action.ticket)
            elif isinstance(action, Duck):
                self.gain = 0.3
            elif isinstance(action, Unduck):
                self.gain = 1.0
            elif isinstance(action, Interrupt | Reopen):
                self.plays, self.gain = None, 1.0
            elif action == Enter(Phase.PLAYING) and self.plays is None:
                self.plays, self._left = self.machine.ticket, self.answerer.answer_s

    def _compute(self, ticket: int) -> None:
        answerer = self.answerer
        self.events.append(
            (
                self.now + answerer.transcript_after_s,
                lambda: self.machine.heard(ticket, answerer.transcript),
            )
        )
        if answerer.sound_after_s is None:
            return
        self.events.append((self.now + answerer.sound_after_s, lambda: self.machine.sound(ticket)))
