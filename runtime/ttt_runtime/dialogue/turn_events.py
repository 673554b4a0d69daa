"""What turn-taking asks of its surroundings: small frozen actions, in the order to be done in.

A `ticket` names one computation of an answer; what comes in for an older ticket is ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal


class Phase(Enum):
    """Where a conversation is."""

    ASLEEP = "asleep"  # waits for the key or the wake word
    LISTENING = "listening"  # waits for speech
    SPEAKING = "speaking"  # the user speaks
    THINKING = "thinking"  # silence; the answer is being computed and has no sound yet
    HELD = "held"  # the answer has sound, and waits for the end of the turn
    PLAYING = "playing"
    INTERRUPTED = "interrupted"  # still playing, ducked: somebody seems to speak
    DEAF = "deaf"  # no microphone


# Why a turn came to nothing.
Abandoned = Literal["no_speech", "slip", "no_answer", "failed", "device", "reset"]
# What ended a turn.
TurnEnd = Literal["complete", "incomplete", "fixed", "key", "longest"]


@dataclass(frozen=True, slots=True)
class BeginTurn:
    """The user speaks: encode the microphone from `from_s` on (it may lie in the past)."""

    from_s: float


@dataclass(frozen=True, slots=True)
class Compute:
    """Finish a copy of the encoding at `until_s` and compute the answer; hold it back."""

    ticket: int
    until_s: float


@dataclass(frozen=True, slots=True)
class Drop:
    """The user goes on: forget the answer. The turn keeps all its audio and is encoded further."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Release:
    """The turn is over: commit it, play the answer as it comes.

    `speech_end_s`: when the user fell silent, as far as is known; `why`: what decided.
    """

    ticket: int
    speech_end_s: float
    why: TurnEnd


@dataclass(frozen=True, slots=True)
class Duck:
    """Somebody seems to speak over the answer: play it softly."""


@dataclass(frozen=True, slots=True)
class Unduck:
    """It was nothing: play as before."""


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Stop the sound, cancel the computation, cut conversation and cache to what was played.

    Ends ducking, as `Reopen` does.
    """

    ticket: int


@dataclass(frozen=True, slots=True)
class Reopen:
    """The turn was released too early: stop the sound, forget the answer as if it never was.

    The turn goes on with all its audio, that since its release included.
    """

    ticket: int


@dataclass(frozen=True, slots=True)
class Abandon:
    """The turn comes to nothing: forget its audio and, if there is one, its answer."""

    ticket: int | None
    why: Abandoned


@dataclass(frozen=True, slots=True)
class Enter:
    """The phase changed (for displays)."""

    phase: Phase


Action = BeginTurn | Compute | Drop | Release | Duck | Unduck | Interrupt | Reopen | Abandon | Enter
