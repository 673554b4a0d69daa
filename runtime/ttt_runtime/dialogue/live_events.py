"""What a live conversation tells its display: one small event each time something happens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal[
    "state",  # state
    "transcript",  # turn, text: what the user said, as the model wrote it
    "text",  # turn, text: more of the answer
    "dropped",  # turn: the user went on, the answer that was held is forgotten
    "reopened",  # turn: the same, just after it had begun to sound
    "interrupted",  # turn, text, played_s: what of the answer was heard
    "abandoned",  # why
    "turn",  # the figures of a turn whose answer has begun to sound
    "finished",  # turn, text: an answer that was played to its end
    "device",  # is_there, microphone, loudspeaker, reason
    "error",  # reason
]


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """One event; `at_s` is the microphone's time."""

    kind: Kind
    at_s: float
    fields: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the form that `--json` prints."""
        return {"event": self.kind, "at_s": round(self.at_s, 3), **self.fields}
