"""Written-out reckoning: what the model notes down before it names a number.

A sum is counted, not remembered: a step number and the value there, from the start to the end,
``five minus two`` as ``zero five one four two three``. Each pair follows from the one before it
and the last value is the answer, so that a pair of numbers which training never saw is reckoned by
the same small steps as all others. The note stands behind the transcript, is written in a few
milliseconds and never spoken.
"""

from __future__ import annotations

from collections.abc import Iterable

from ttt_ref.recipes.tiny.facts import number_words

MARK = ":"  # between the transcript and the note


def _note(steps: Iterable[tuple[int, int]]) -> str:
    return " ".join(f"{number_words(step)} {number_words(value)}" for step, value in steps)


def expression(kind: str, a: int, b: int) -> str:
    """Note of ``a plus b`` and ``a minus b`` (b steps of one) or ``a times b`` (a steps of b)."""
    if kind == "times":
        return _note((step, step * b) for step in range(1, a + 1))
    sign = {"plus": 1, "minus": -1}[kind]
    return _note((step, a + sign * step) for step in range(b + 1))


def clock(hour: int, steps: int, sign: int) -> str:
    """Note of so many hours after (``sign`` 1) or before (-1) an hour of the twelve."""
    return _note((step, (hour + sign * step - 1) % 12 + 1) for step in range(steps + 1))
