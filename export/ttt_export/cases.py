"""The situations that a decoder must get right, as plain sequences of forwards.

A pass computes the rows `start..` of a sequence on top of a cache that earlier passes of the same
case filled. Its truth is the full recompute of the whole sequence: whatever was in the cache, the
hidden states of those rows must be the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ttt_ref.config import TokenLayout

IntArray = NDArray[np.int64]

BLOCK = 26
# Of a model that is checked layer by layer: the same situations, with half the rows to compute.
SHORT_BLOCK = 9


@dataclass(frozen=True)
class Pass:
    """One forward: rows `start..len(ids)-1` of `ids`, cache rows below `start` are used as kept."""

    ids: tuple[int, ...]
    start: int

    @property
    def rows(self) -> tuple[int, ...]:
        """Ids that this forward computes."""
        return self.ids[self.start :]


@dataclass(frozen=True)
class Case:
    """Forwards that follow each other on one cache."""

    name: str
    passes: tuple[Pass, ...]

    @property
    def longest(self) -> int:
        """Cache rows that the case needs."""
        return max(len(p.ids) for p in self.passes)


class SequenceMaker:
    """Draws ids of both sides by name of the part, reproducibly."""

    def __init__(self, layout: TokenLayout, seed: int = 0) -> None:
        self._layout = layout
        self._draw = np.random.default_rng(seed)

    def text(self, count: int) -> list[int]:
        """Return text ids; any id below the audio side is text to the mask rule."""
        return [int(i) for i in self._draw.integers(0, self._layout.audio_start, count)]

    def codes(self, count: int) -> list[int]:
        """Return ids of speech codes."""
        first = self._layout.code_offset
        last = first + self._layout.num_codes
        return [int(i) for i in self._draw.integers(first, last, count)]

    def masks(self, count: int) -> list[int]:
        """Return mask ids."""
        return [self._layout.mask_id] * count

    def half_revealed(self, count: int) -> list[int]:
        """Return codes of which about half are still masked."""
        hidden = self._draw.random(count) < 0.5
        codes = self.codes(count)
        return [self._layout.mask_id if h else c for h, c in zip(hidden, codes, strict=True)]


def _follow(*stages: tuple[list[int], int]) -> tuple[Pass, ...]:
    """Make passes of (ids, start) pairs."""
    return tuple(Pass(tuple(ids), start) for ids, start in stages)


def decoder_cases(layout: TokenLayout, seed: int = 0, block: int = BLOCK) -> list[Case]:
    """Return the cases that every exported decoder is held to, with spans in blocks of `block`."""
    make = SequenceMaker(layout, seed)
    text, user, more = make.text(9), make.codes(17), make.text(6)
    prompt = [*text, layout.begin_of_audio_id, *user, layout.end_of_audio_id, *more]
    cases = [
        Case("prefill with the user's speech", _follow((prompt, 0))),
        Case("prefill in chunks", _chunks(prompt, [10, 27])),
        Case("text steps", _steps(prompt, make.text(4))),
    ]
    opened = [*prompt, layout.begin_of_audio_id]
    blocks = [make.masks(block), make.half_revealed(block), make.codes(block)]
    cases.append(
        Case(
            "open span",
            _follow((opened, 0), *(([*opened, *codes], len(opened)) for codes in blocks)),
        )
    )
    span = [*opened, *make.codes(block)]
    longer = [*span, *make.masks(block)]
    cases.append(Case("open span of two blocks", _follow((opened, 0), (longer, len(opened)))))
    closed = [*span, layout.end_of_audio_new_id]
    after = [*closed, *make.text(1)]
    step = [*after, *make.text(1)]
    cases.append(
        Case(
            "committed span",
            _follow(
                (opened, 0),
                (longer, len(opened)),
                (closed, len(opened)),
                (after, len(closed)),
                (step, len(after)),
            ),
        )
    )
    joined = [*closed, *make.codes(1)]  # an audio id made by the text loop joins the span
    cases.append(Case("span joined by a code", _follow((opened, 0), (joined, len(opened)))))
    other = [*prompt[:10], *make.text(3), *make.codes(5)]
    cases.append(Case("cache truncation", _follow((longer, 0), (other, 10), (prompt, 10))))
    return cases


def _chunks(ids: list[int], edges: list[int]) -> tuple[Pass, ...]:
    starts = [0, *edges]
    stops = [*edges, len(ids)]
    return tuple(Pass(tuple(ids[:stop]), start) for start, stop in zip(starts, stops, strict=True))


def _steps(prompt: list[int], answer: list[int]) -> tuple[Pass, ...]:
    whole = [*prompt, *answer]
    first = Pass(tuple(prompt), 0)
    steps = (Pass(tuple(whole[: n + 1]), n) for n in range(len(prompt), len(whole)))
    return (first, *steps)


def probe_sequence(layout: TokenLayout, seed: int = 1) -> list[int]:
    """Return ids with two audio runs between text, for the causal-leak probe."""
    make = SequenceMaker(layout, seed)
    return [*make.text(4), *make.codes(7), *make.text(3), *make.codes(6), *make.text(2)]


def sees(ids: list[int], is_audio: Callable[[int], bool]) -> NDArray[np.bool_]:
    """Return the mask rule as bool [L, L], written as plainly as it is said.

    Deliberately not the runtime's or the reference's code: the probe must not share their slips.
    """
    length = len(ids)
    run = [-1] * length
    number = 0
    for position, token_id in enumerate(ids):
        if is_audio(token_id):
            run[position] = number
        else:
            number += 1
    return np.array(
        [
            [j <= i or (run[i] >= 0 and run[i] == run[j]) for j in range(length)]
            for i in range(length)
        ]
    )
