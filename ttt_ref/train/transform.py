"""What happens to an example each time it is drawn.

SST truncation, spans that run over their end, and disturbed user speech.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ttt_ref.config import TokenLayout
from ttt_ref.train.config import AugmentSection
from ttt_ref.train.store import BoolArray, Example

MIN_SPAN_TOKENS = 10  # shorter spans are never cut; constants of the released loader
MIN_KEPT_TOKENS = 5


def trained_runs(trained: BoolArray) -> list[tuple[int, int]]:
    """Return [start, end) of each contiguous trained stretch: one per assistant turn."""
    edges = np.flatnonzero(np.diff(trained.astype(np.int8), prepend=0, append=0))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def cut_last_spans(
    example: Example, probability: float, rng: np.random.Generator, layout: TokenLayout
) -> Example:
    """SST: cut the last span of each assistant turn short, so that no end can be learnt from it.

    With the given probability a turn whose last span is closed by `<|end_of_audio_span_last|>`
    and has n > 10 tokens keeps k of them, k uniform in [max(int(0.3 n), 5), int(0.9 n)]; all that
    follows in the turn is dropped. Plain texts (nothing but trained tokens) are left alone.
    """
    if bool(example.trained.all()):
        return example
    keep = np.ones(len(example.ids), bool)
    for start, end in trained_runs(example.trained):
        if rng.random() >= probability:
            continue
        turn = example.ids[start:end]
        begins = np.flatnonzero(turn == layout.begin_of_quad_id)
        if len(begins) == 0:
            continue
        first = int(begins[-1]) + 1
        closes = np.flatnonzero(turn[first:] == layout.end_of_audio_span_last_id)
        if len(closes) == 0:
            continue
        span_tokens = int(closes[0])
        if span_tokens <= MIN_SPAN_TOKENS:
            continue
        low = max(int(span_tokens * 0.3), MIN_KEPT_TOKENS)
        kept = int(rng.integers(low, int(span_tokens * 0.9) + 1))
        keep[start + first + kept : end] = False
    if bool(keep.all()):
        return example
    return Example(example.ids[keep], example.trained[keep], example.prompt_length)


def overrun_last_span(
    example: Example, probability: float, block: int, rng: np.random.Generator, layout: TokenLayout
) -> Example:
    """Let the last span run over its end, as a block of fixed size does at inference.

    A block is masked whole before anybody knows where the span ends; in the released training
    nothing masked ever stands behind an end tag, so a model learns that the end lies where the
    masks end and fills every last block to its brim. With the given probability the end tag of
    the last answer's last span is repeated k times and all behind it is dropped. Half of the time
    k fills the block that the span ends in (blocks counted from the span's begin), else k is
    uniform in [1, block]. An example that SST has cut has no end and is left alone.
    """
    runs = trained_runs(example.trained)
    if not runs or bool(example.trained.all()) or rng.random() >= probability:
        return example
    start, stop = runs[-1]
    turn = example.ids[start:stop]
    begins = np.flatnonzero((turn == layout.begin_of_quad_id) | (turn == layout.begin_of_audio_id))
    if len(begins) == 0:
        return example
    first = int(begins[-1]) + 1
    ends = np.flatnonzero(np.isin(turn[first:], list(layout.end_ids)))
    if len(ends) == 0:
        return example
    tokens = int(ends[0]) + 1  # of the span, with its end tag
    to_brim, uniform = -tokens % block, int(rng.integers(1, block + 1))
    extra = to_brim if rng.random() < 0.5 else uniform
    kept = start + first + tokens
    return Example(
        np.concatenate((example.ids[:kept], np.repeat(example.ids[kept - 1], extra))),
        np.concatenate((example.trained[:kept], np.ones(extra, bool))),
        example.prompt_length,
    )


class Disturbance:
    """Flips, drops and repeats of the user's speech codes, as noise and other voices cause them."""

    def __init__(self, section: AugmentSection, layout: TokenLayout) -> None:
        self.section = section
        self.layout = layout
        self.levels = np.asarray(section.flip_fsq_levels, np.int64)
        if len(self.levels):
            assert int(self.levels.prod()) == layout.num_codes

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        """Return the example with its untrained speech codes disturbed; lengths may change."""
        first = self.layout.code_offset
        is_code = (example.ids >= first) & (example.ids < first + self.layout.num_codes)
        places = np.flatnonzero(is_code & ~example.trained)
        if len(places) == 0:
            return example
        limits = (
            self.section.user_code_flip,
            self.section.user_code_drop,
            self.section.user_code_repeat,
        )
        flip, drop, repeat = rng.random(3) * limits
        draws = rng.random((2, len(places)))
        ids = example.ids.copy()
        flipped = places[draws[0] < flip]
        ids[flipped] = first + self._other_codes(ids[flipped] - first, rng)
        counts = np.ones(len(ids), np.int64)
        counts[places[draws[1] < drop]] = 0
        counts[places[draws[1] > 1.0 - repeat]] = 2
        shift = int(counts.sum()) - len(ids)
        return Example(
            np.repeat(ids, counts),
            np.repeat(example.trained, counts),
            example.prompt_length + shift,
        )

    def _other_codes(self, codes: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.int64]:
        """Replace each code: by one with another FSQ digit where levels are known, else by any."""
        if not len(self.levels):
            return rng.integers(0, self.layout.num_codes, len(codes))
        # Digit 0 is the fastest: code = sum of digit_i * product of the levels before i.
        strides = np.concatenate(([1], np.cumprod(self.levels)[:-1]))
        which = rng.integers(0, len(self.levels), len(codes))
        stride, level = strides[which], self.levels[which]
        digit = codes // stride % level
        other = (digit + rng.integers(1, level)) % level
        replaced: NDArray[np.int64] = codes + (other - digit) * stride
        return replaced
