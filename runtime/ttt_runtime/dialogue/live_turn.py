"""One turn of a live conversation: what was said, and what its latency is made of.

    silence --timer--> release --visible--> first sample given to the card --card--> air
          `--computing: hidden behind the timer--'

`visible_ms` is what computing adds to the latency: 0 but for a poll of the card where the answer
was held. Times of work are of `time.perf_counter`, silence is of the microphone's time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttt_runtime.dialogue.answerer import Answered
from ttt_runtime.dialogue.turn_events import TurnEnd


@dataclass(slots=True)
class LiveTurn:
    """See the module. Seconds; `*_s` of clocks are None until they happened."""

    ticket: int
    begin_s: float  # microphone's time
    computed_s: float  # when the answer was asked for
    transcript: str = ""
    text: str = ""
    timer_s: float = 0.0
    why: TurnEnd | None = None
    released_s: float | None = None
    sound_s: float | None = None  # when the answer's first sound existed
    first_sound_s: float | None = None  # when it was given to the card
    encode_ms: float | None = None
    timeline: dict[str, Any] = field(default_factory=dict)
    played_s: float = 0.0
    is_computed: bool = False
    question: NDArray[np.float32] | None = None
    answer: list[NDArray[np.float32]] = field(default_factory=list)

    @property
    def is_released(self) -> bool:
        """Whether the turn is over."""
        return self.released_s is not None

    def release(self, timer_s: float, why: TurnEnd) -> None:
        """The turn is over, so long after its last speech."""
        self.timer_s, self.why = timer_s, why
        self.released_s = time.perf_counter()

    def answered(self, event: Answered) -> None:
        """The answer is computed."""
        self.is_computed = True
        self.encode_ms = event.encode_ms
        self.timeline = event.reply.timeline.figures(event.reply.audio_seconds)

    def figures(self, card_s: float) -> dict[str, Any]:
        """Return the latency's parts in ms; `card_s` is what the card says of its own."""
        assert self.released_s is not None
        assert self.first_sound_s is not None
        visible = max(self.first_sound_s - self.released_s, 0.0)
        sound_s = self.sound_s or self.first_sound_s
        parts = {
            "timer_ms": self.timer_s * 1e3,
            "visible_ms": visible * 1e3,
            "card_ms": card_s * 1e3,
            "latency_ms": (self.timer_s + visible + card_s) * 1e3,
            "compute_ms": (sound_s - self.computed_s) * 1e3,
            "held_ms": max(self.released_s - sound_s, 0.0) * 1e3,
        }
        rounded = {name: round(value, 1) for name, value in parts.items()}
        return {"turn": self.ticket, "why": self.why, **rounded}
