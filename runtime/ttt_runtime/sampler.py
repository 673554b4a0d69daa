"""Choosing ids from logits: the released rules as small numpy functions, no state.

Source: the released generation code's behaviour as recorded in the golden generation data.
Axes: N rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

_PIECE = 256  # values of one piece when the largest are sought

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


class HeadBest:
    """What a head says of each row: best id [N], its logit [N], sum of exp(logit - best) [N].

    The sum may be given as a function, which is called when it is first asked for; that must
    happen before the head is used again.
    """

    __slots__ = ("_sum_exp", "ids", "logits")

    def __init__(self, ids: Ids, logits: Floats, sum_exp: Floats | Callable[[], Floats]) -> None:
        self.ids = ids
        self.logits = logits
        self._sum_exp = sum_exp

    @property
    def sum_exp(self) -> Floats:
        """Sum over the head's rows of exp(logit - best logit), [N], at least 1."""
        if callable(self._sum_exp):
            self._sum_exp = self._sum_exp()
        return self._sum_exp


def combine(text: HeadBest, speech: HeadBest) -> tuple[Ids, Floats]:
    """Return best id [N] over all rows of both heads, and its softmax probability [N]."""
    # Text ids come first in the vocabulary: on a tie the text id wins, as with one argmax.
    takes_speech = speech.logits > text.logits
    ids = np.where(takes_speech, speech.ids, text.ids)
    gap = np.exp(-np.abs(speech.logits - text.logits))  # the loser's best relative to the winner's
    winner = np.where(takes_speech, speech.sum_exp, text.sum_exp)
    loser = np.where(takes_speech, text.sum_exp, speech.sum_exp)
    return ids, 1.0 / (winner + loser * gap)


def confidence_of(best: HeadBest) -> Floats:
    """Return the softmax probability [N] of a single head's best id among its own rows."""
    return np.reciprocal(best.sum_exp)


def largest(values: Floats, count: int) -> Ids:
    """Return the indices of the `count` largest values [V], largest first; of equals the first.

    Of 150,000 values a partition takes a millisecond; most of them are ruled out by the peaks of
    pieces: as many pieces as are wanted hold a value that is at least the bound.
    """
    peaks = values[: values.size // _PIECE * _PIECE].reshape(-1, _PIECE).max(axis=1)
    if count < len(peaks):
        bound = np.partition(peaks, -count)[-count]
        candidates = np.flatnonzero(values >= bound)
    else:
        candidates = np.arange(values.size)
    order = np.argsort(-values[candidates], kind="stable")[:count]
    found: Ids = candidates[order]
    return found


def sample_text(
    logits: Floats,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    rng: np.random.Generator,
) -> int:
    """Draw one id from logits [V].

    Softmax at `temperature` (0 counts as 1), then only the `top_k` most probable ids, then of
    those the ones whose more probable predecessors sum to less than `top_p` (probabilities are
    not renormalised between the two), then a draw.
    """
    # One pass over all logits in float32 for the sum; only what may be drawn is looked at closer.
    per_unit = 1.0 / (temperature if temperature > 0 else 1.0)
    relative = logits - logits.max()
    relative *= np.float32(per_unit)
    ids = largest(relative, top_k if top_k else relative.size)
    kept = np.exp(relative[ids].astype(np.float64))
    kept /= float(np.exp(relative, out=relative).sum(dtype=np.float64))
    if top_p is not None and 0.0 < top_p < 1.0:
        kept = np.where(np.cumsum(kept) - kept < top_p, kept, 0.0)
    # The inverse of the cumulative sum; `side="right"` never picks an id of weight zero.
    cumulative = np.cumsum(kept)
    draw = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
    return int(ids[min(draw, int(np.count_nonzero(kept)) - 1)])


def gumbel_choice(
    logits: Floats, temperature: float, rng: np.random.Generator
) -> tuple[Ids, Floats]:
    """Choose an id per row of logits [N, V] with Gumbel noise; return ids and confidences [N].

    The noise multiplies: argmax of exp(logit) / (-log u) ** temperature, computed in the log
    domain. The confidence is the softmax probability of the chosen id without noise.
    """
    wide = logits.astype(np.float64)
    uniform = rng.random(wide.shape)
    with np.errstate(divide="ignore"):  # u = 0 gives -inf, which only loses
        noisy = wide - temperature * np.log(-np.log(uniform))
    ids = noisy.argmax(axis=1)
    top = wide.max(axis=1, keepdims=True)
    total = np.log(np.exp(wide - top).sum(axis=1)) + top[:, 0]
    chosen = wide[np.arange(len(ids)), ids]
    return ids, np.exp(chosen - total).astype(np.float32)


def most_confident(confidence: NDArray[np.floating], count: int) -> Sequence[int]:
    """Return the indices of the `count` highest confidences [N]; of equals the first."""
    if count >= len(confidence):
        return range(len(confidence))
    order: list[int] = np.argsort(-confidence, kind="stable")[:count].tolist()
    return order
