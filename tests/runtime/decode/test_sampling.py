"""Sampling functions against the formulas they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from ttt_runtime.backends.base import HeadBest
from ttt_runtime.decode.sampling import (
    combine,
    confidence_of,
    gumbel_choice,
    largest,
    most_confident,
    sample_text,
    sum_of_exp,
)
from ttt_runtime.decode.scheduler import reveal_counts


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def best_of(logits: np.ndarray, offset: int = 0) -> HeadBest:
    top = logits.max(1)
    return HeadBest(logits.argmax(1) + offset, top, np.exp(logits - top[:, None]).sum(1))


def test_combining_heads_is_one_argmax_over_all_rows() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (200, 30)).astype(np.float32)
    ids, confidence = combine(best_of(logits[:, :18]), best_of(logits[:, 18:], 18))
    np.testing.assert_array_equal(ids, logits.argmax(1))
    np.testing.assert_allclose(confidence, softmax(logits).max(1), rtol=1e-5)


def test_combining_extreme_logits_overflows_nowhere() -> None:
    text = np.array([[-1e30, -1e30], [300.0, 0.0], [0.0, 0.0]], dtype=np.float32)
    speech = np.array([[-5.0, 2.0], [-300.0, -400.0], [0.0, -1.0]], dtype=np.float32)
    with np.errstate(all="raise", under="ignore"):
        ids, confidence = combine(best_of(text), best_of(speech, 2))
    assert ids.tolist() == [3, 0, 0]  # on a tie the lower id, as one argmax would
    expected = softmax(np.concatenate([text, speech], 1).astype(np.float64)).max(1)
    np.testing.assert_allclose(confidence, expected, rtol=1e-6)


def test_confidences_near_one_keep_their_order() -> None:
    """A log-sum-exp in float32 would call all of these equal: 20 + 1e-7 is 20."""
    tails = np.array([3e-7, 1e-7, 8e-7, 2e-6], dtype=np.float32)
    best = HeadBest(np.zeros(4, np.int64), np.full(4, 20, np.float32), 1 + tails)
    other = HeadBest(np.ones(4, np.int64), np.full(4, -80, np.float32), np.ones(4, np.float32))
    _, confidence = combine(best, other)
    assert list(most_confident(confidence, 3)) == [1, 0, 2]
    assert list(most_confident(confidence_of(best), 3)) == [1, 0, 2]


def test_reveal_counts_are_base_plus_remainder_first() -> None:
    assert reveal_counts(6, 4) == [2, 2, 1, 1]
    assert reveal_counts(8, 5) == [2, 2, 2, 1, 1]
    assert reveal_counts(26, 2) == [13, 13]
    assert reveal_counts(3, 5) == [1, 1, 1]  # idle steps change nothing and are left out
    for block in range(1, 40):
        for steps in range(1, 40):
            counts = reveal_counts(block, steps)
            assert sum(counts) == block
            assert max(counts) - min(counts) <= 1


def test_most_confident_takes_the_first_of_equals() -> None:
    confidence = np.array([0.5, 0.9, 0.5, 0.9, 0.1], dtype=np.float32)
    assert list(most_confident(confidence, 3)) == [1, 3, 0]
    assert list(most_confident(confidence, 9)) == [0, 1, 2, 3, 4]
    assert list(most_confident(confidence, 0)) == []


def frequencies(logits: np.ndarray, count: int = 4000, **options: object) -> np.ndarray:
    rng = np.random.default_rng(5)
    draws = [sample_text([logits], rng=rng, **options) for _ in range(count)]  # type: ignore[arg-type]
    return np.bincount(draws, minlength=len(logits)) / count


LOGITS = np.log(np.array([0.05, 0.4, 0.3, 0.15, 0.1], dtype=np.float32))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": 1.0, "top_k": None, "top_p": None}, [0.05, 0.4, 0.3, 0.15, 0.1]),
        # Temperature 0 with a filter set samples at temperature 1.
        ({"temperature": 0.0, "top_k": 2, "top_p": None}, [0, 4 / 7, 3 / 7, 0, 0]),
        ({"temperature": 1.0, "top_k": 0, "top_p": 1.0}, [0.05, 0.4, 0.3, 0.15, 0.1]),
        # Kept while the mass BEFORE an id is below top_p: 0, .4, .7, then .85 is not.
        ({"temperature": 1.0, "top_k": None, "top_p": 0.75}, [0, 8, 6, 3, 0]),
        # top_p works on what top_k left, not renormalised: mass before the third is .7 >= .6.
        ({"temperature": 1.0, "top_k": 3, "top_p": 0.6}, [0, 4 / 7, 3 / 7, 0, 0]),
        ({"temperature": 1.0, "top_k": None, "top_p": 0.01}, [0, 1, 0, 0, 0]),
        ({"temperature": 0.5, "top_k": None, "top_p": None}, [1, 64, 36, 9, 4]),
    ],
)  # fmt: skip
def test_text_is_drawn_from_the_filtered_distribution(
    options: dict[str, object], expected: list[float]
) -> None:
    got = frequencies(LOGITS, **options)
    np.testing.assert_allclose(got, np.array(expected) / sum(expected), atol=0.03)
    assert not got[np.array(expected) == 0].any()


def test_a_forbidden_id_is_never_drawn() -> None:
    logits = LOGITS.copy()
    logits[1] -= 1e30
    assert frequencies(logits, 500, temperature=1.0, top_k=None, top_p=None)[1] == 0


def test_gumbel_choice_follows_softmax_and_reports_noise_free_confidence() -> None:
    rng = np.random.default_rng(1)
    rows = np.repeat(LOGITS[None], 4000, axis=0)
    ids, confidence = gumbel_choice(rows, 1.0, rng)
    expected = np.exp(LOGITS) / np.exp(LOGITS).sum()
    np.testing.assert_allclose(np.bincount(ids, minlength=5) / 4000, expected, atol=0.03)
    np.testing.assert_allclose(confidence, expected[ids], rtol=1e-5)


def test_gumbel_equals_the_released_formula() -> None:
    """exp(logits) / (-log u) ** T, with the same u."""
    logits = np.random.default_rng(2).normal(0, 2, (50, 12)).astype(np.float32)
    for temperature in (0.3, 1.0, 1.7):
        ids, _ = gumbel_choice(logits, temperature, np.random.default_rng(9))
        u = np.random.default_rng(9).random(logits.shape)
        released = np.exp(logits.astype(np.float64)) / (-np.log(u)) ** temperature
        np.testing.assert_array_equal(ids, released.argmax(1))


@pytest.mark.parametrize("size", [1, 5, 255, 256, 700, 5000])
@pytest.mark.parametrize("count", [1, 3, 10, 6000])
def test_the_largest_are_found_in_order(size, count):
    draw = np.random.default_rng([size, count])
    for values in (
        draw.standard_normal(size).astype(np.float32),
        draw.integers(0, 4, size).astype(np.float32),  # many equals
        np.sort(draw.standard_normal(size).astype(np.float32))[::-1].copy(),
    ):
        want = np.argsort(-values, kind="stable")[:count]
        for parts in ([values], [values[: size // 3], values[size // 3 :]]):
            ids, found = largest(parts, count)
            np.testing.assert_array_equal(ids, want)
            np.testing.assert_array_equal(found, values[want])


@pytest.mark.parametrize("size", [3, 168_072])
def test_logits_in_parts_are_drawn_from_like_whole_ones(size: int) -> None:
    """Larger than a piece, with a remainder; the cut lies inside a column."""
    draw = np.random.default_rng(size)
    for trial in range(20):
        logits = (draw.standard_normal(size) * 4).astype(np.float32)
        cut = size * 9 // 10 + 1
        options = {"temperature": 0.7, "top_k": 50, "top_p": 0.9}
        picked = [
            sample_text(parts, rng=np.random.default_rng(trial), **options)  # type: ignore[arg-type]
            for parts in ([logits], [logits[:cut], logits[cut:]])
        ]
        assert picked[0] == picked[1]
        best = logits.max()
        want = float(np.exp((logits.astype(np.float64) - best) * 0.7).sum())
        got = sum_of_exp([logits[:cut], logits[cut:]], best, np.float32(0.7))
        assert got == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize(("top_k", "top_p"), [(10, 0.95), (1, 0.5), (200, None), (None, 0.3)])
def test_few_candidates_are_drawn_as_many_are(monkeypatch, top_k, top_p):
    """The short way through ten values gives what numpy's passes over all of them give."""
    draw = np.random.default_rng(0)
    for number in range(200):
        logits = draw.normal(0, 1 + number % 30, 230).astype(np.float32)
        found = []
        for few in (256, 0):
            monkeypatch.setattr("ttt_runtime.decode.sampling._FEW", few)
            rng = np.random.default_rng(number)
            found.append(sample_text([logits], 0.8, top_k, top_p, rng))
        assert found[0] == found[1]
