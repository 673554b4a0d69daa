"""Written-out arithmetic: what the model notes down before it names a number.

A sum is counted, not remembered: the steps still to go and the value so far, ``five minus two`` as
``two five one four zero three``. Each pair follows from the one before it and the last value is the
answer, so that a pair of numbers which training never saw is computed by the same small steps as
all others. The steps count down, so that every count ends at zero: counts that went up to a number
of the question sometimes ran past it (``ten times three`` to ``twelve thirty six``). The note
stands behind the transcript, is written in a few milliseconds and never spoken.

A model that knows its tables by heart has no need of the note, and names from memory what it has
just counted otherwise. So a share of the training's notes have a *slip*: one value is another one,
the count goes on from there, and the answer is where it ends.
"""

from __future__ import annotations

import numpy as np

from recipes.tiny.facts import number_words

MARK = ":"  # between the transcript and the note
HOURS = 12
_HIGHEST_SLIP = 100

Steps = tuple[tuple[int, int], ...]  # (steps still to go, value so far) pairs


def note(steps: Steps) -> str:
    """Spell the steps."""
    return " ".join(f"{number_words(left)} {number_words(value)}" for left, value in steps)


def expression(kind: str, a: int, b: int) -> Steps:
    """Count ``a plus b`` and ``a minus b`` (b steps of one) or ``a times b`` (a steps of b)."""
    if kind == "times":
        return tuple((a - step, step * b) for step in range(a + 1))
    sign = {"plus": 1, "minus": -1}[kind]
    return tuple((b - step, a + sign * step) for step in range(b + 1))


def clock(hour: int, steps: int, sign: int) -> Steps:
    """Count so many hours after (``sign`` 1) or before (-1) an hour of the twelve."""
    return tuple((steps - step, _on_clock(hour + sign * step)) for step in range(steps + 1))


def slip(steps: Steps, rng: np.random.Generator, *, on_clock: bool) -> Steps:
    """Change one value and all behind it by the same amount; never below zero."""
    at = int(rng.integers(len(steps)))
    kept, rest = steps[:at], steps[at:]
    if on_clock:
        shift = int(rng.integers(1, HOURS))
        return kept + tuple((left, _on_clock(value + shift)) for left, value in rest)
    values = [value for _, value in rest]
    shift = 0
    while shift == 0:
        shift = int(rng.integers(-min(values), max(_HIGHEST_SLIP - max(values), 1) + 1))
    return kept + tuple((left, value + shift) for left, value in rest)


def _on_clock(hour: int) -> int:
    return (hour - 1) % HOURS + 1
