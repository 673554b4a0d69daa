"""Choosing ids from logits: the released rules as small numpy functions, no state.

Source: the released generation code's behaviour as recorded in the golden generation data.
Axes: N rows, V vocabulary.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import exp

import numpy as np
from numpy.typing import NDArray

from ttt_runtime.backends.base import Floats, HeadBest, Ids, TopKFinder

_FOLDS = 256  # values of one column when the largest are sought
# A piece of logits stays in a core's own cache while several passes go over it; all of them (670 kB
# for 168,072 rows) would come from memory each time, right behind a graph that filled the cache.
_PIECE = 128 * _FOLDS
_FEW = 256  # candidates of a draw that are quicker gone through one by one


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


def _pieces(parts: Sequence[Floats]) -> list[tuple[int, Floats]]:
    """Cut parts into pieces, each with the index of its first value in all parts together."""
    found, first = [], 0
    for part in parts:
        found += [(first + i, part[i : i + _PIECE]) for i in range(0, len(part), _PIECE)]
        first += len(part)
    return found


def largest(parts: Sequence[Floats], count: int) -> tuple[Ids, Floats]:
    """Return indices and values of the `count` largest, largest first; of equals the first.

    The values [V] may come in parts, one behind the other. Of 150,000 a partition takes a
    millisecond. Folded into columns, their peaks are found in one pass, and as many columns as are
    wanted hold a value that is at least the bound.
    """
    pieces = _pieces(parts)
    peaks: list[Floats] = []
    for _, piece in pieces:
        width = len(piece) // _FOLDS
        if width:
            peaks.append(piece[: width * _FOLDS].reshape(_FOLDS, width).max(axis=0))
        peaks.append(piece[width * _FOLDS :])  # values of no column stand for themselves
    tops = np.concatenate(peaks)
    bound = -np.inf
    if count < len(tops):
        bound = np.partition(tops, len(tops) - count)[len(tops) - count]
    ids, values = [], []
    for first, piece in pieces:
        candidates = np.flatnonzero(piece >= bound)
        if len(candidates):
            ids.append(candidates + first)
            values.append(piece[candidates])
    all_ids, all_values = np.concatenate(ids), np.concatenate(values)
    order = np.argsort(-all_values, kind="stable")[:count]
    return all_ids[order], all_values[order]


def sum_of_exp(parts: Sequence[Floats], offset: np.float32, factor: np.float32) -> float:
    """Return the sum of exp((value - offset) * factor) over all values; exponents are <= 0.

    Each piece is added in float32 (numpy adds pairwise), their sums in float64.
    """
    total = 0.0
    terms = np.empty(_PIECE, np.float32)
    for _, piece in _pieces(parts):
        mine = terms[: len(piece)]
        np.subtract(piece, offset, out=mine)
        if factor != 1.0:
            np.multiply(mine, factor, out=mine)
        total += float(np.exp(mine, out=mine).sum())
    return total


def sample_text(
    parts: Sequence[Floats],
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    rng: np.random.Generator,
    top_k_finder: TopKFinder | None = None,
) -> int:
    """Draw one id from logits [V], which may come in parts, one behind the other.

    Softmax at `temperature` (0 counts as 1), then only the `top_k` most probable ids, then of
    those the ones whose more probable predecessors sum to less than `top_p` (probabilities are
    not renormalised between the two), then a draw.
    """
    # Passes over all logits are few and in float32; only what may be drawn is looked at closer.
    per_unit = np.float32(1.0 / (temperature if temperature > 0 else 1.0))
    total: float | None = None
    count = top_k if top_k else sum(map(len, parts))
    if top_k_finder is not None and top_k_finder.is_worthwhile(parts, count):
        ids, logits, total = top_k_finder.find(parts, count, per_unit)
    else:
        ids, logits = largest(parts, count)
    scaled = (logits - logits[0]) * per_unit
    limit = np.inf
    if top_p is not None and 0.0 < top_p < 1.0:
        if total is None:
            total = sum_of_exp(parts, logits[0], per_unit)
        limit = top_p * total
    if len(scaled) <= _FEW:
        return int(ids[_draw_of_few(scaled.tolist(), limit, rng.random())])
    kept = np.exp(scaled.astype(np.float64))
    mass_before = np.cumsum(kept) - kept
    kept = np.where(mass_before < limit, kept, 0.0)
    # The inverse of the cumulative sum; `side="right"` never picks an id of weight zero.
    cumulative = np.cumsum(kept)
    draw = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
    return int(ids[min(draw, int(np.count_nonzero(kept)) - 1)])


def _draw_of_few(scaled: list[float], limit: float, share: float) -> int:
    """Return the index drawn from exponents <= 0, largest first: what `sample_text` does of many.

    A text step's ten values are summed up before numpy has made its first array.
    """
    cumulative: list[float] = []
    mass = 0.0
    for exponent in scaled:
        weight = exp(exponent)
        if not mass < limit or weight == 0.0:
            break
        mass += weight
        cumulative.append(mass)
    return min(bisect_right(cumulative, share * mass), len(cumulative) - 1)


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
