"""Who computes next. Plain numbers, no threads, no clock inside.

One engine serves all sessions, a step at a time (a block of speech, a few tokens of text). Changing
the session costs a pass over what its cache lost, so nobody is set aside without a reason:

    small work   pieces of speech to encode, cuts: at once, in order
    silent       turns without their first sound: in order, each up to its first sound
    sounding     turns whose listeners hear something: the one that runs dry first
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

# A sounding turn is set aside for another one only if that has this much less sound in store.
SWITCH_SECONDS: Final = 0.5


@dataclass(slots=True)
class Claim:
    """What is known of one piece of work.

    Attributes:
        number: order of arrival.
        small: short work, done in one go.
        cancelled: its client wants no more; ends with its next step.
        sounds_until: when the sound made so far ends; None before the first.
    """

    number: int
    small: bool = False
    cancelled: bool = False
    sounds_until: float | None = None

    def sounded(self, now: float, seconds: float) -> None:
        """Take note of so many seconds of new sound."""
        begin = now if self.sounds_until is None else max(self.sounds_until, now)
        self.sounds_until = begin + seconds


def pick(claims: Sequence[Claim], current: Claim | None) -> Claim:
    """Return the claim to work on next.

    Args:
        claims: all that wait, `current` included if it goes on.
        current: the one that ran last.
    """
    urgent = [claim for claim in claims if claim.small or claim.cancelled]
    if urgent:
        return min(urgent, key=_arrival)
    silent = [claim for claim in claims if claim.sounds_until is None]
    if silent:
        return min(silent, key=_arrival)
    driest = min(claims, key=_end_of_sound)
    if current in claims:
        assert current is not None
        if _end_of_sound(driest) + SWITCH_SECONDS > _end_of_sound(current):
            return current
    return driest


def _arrival(claim: Claim) -> int:
    return claim.number


def _end_of_sound(claim: Claim) -> float:
    assert claim.sounds_until is not None
    return claim.sounds_until
