"""The graph that goes over long logits finds what numpy finds."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from ttt_export.runtime_graphs import top_k_model, write
from ttt_runtime.backends.ort.session import SessionSettings
from ttt_runtime.backends.ort.top_k import GRAPH, ROW, WORTH_IT, TopKFinder
from ttt_runtime.decode.sampling import largest, sample_text, sum_of_exp


@pytest.fixture(scope="module")
def top_k_finder() -> TopKFinder:
    return TopKFinder(SessionSettings(threads=1))


def parts_of(seed: int, kind: str) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    sizes = (151_684, 16_388)  # text and speech rows of the released shape: both leave a rest
    if kind == "equals":
        return [draw.integers(0, 4, size).astype(np.float32) for size in sizes]
    return [(draw.standard_normal(size) * 4).astype(np.float32) for size in sizes]


@pytest.mark.parametrize("kind", ["normal", "equals"])
@pytest.mark.parametrize("count", [1, 10, 64])
def test_it_finds_what_numpy_finds(top_k_finder: TopKFinder, kind: str, count: int) -> None:
    parts = parts_of(count, kind)
    per_unit = np.float32(1.25)
    ids, values, total = top_k_finder.find(parts, count, per_unit)
    want_ids, want_values = largest(parts, count)
    np.testing.assert_array_equal(ids, want_ids)
    np.testing.assert_array_equal(values, want_values)
    assert total == pytest.approx(sum_of_exp(parts, want_values[0], per_unit), rel=1e-5)


def test_the_best_may_stand_in_the_rest_or_in_the_second_part(top_k_finder: TopKFinder) -> None:
    for part, place in ((0, 151_683), (1, 3), (1, 16_387)):
        parts = parts_of(9, "normal")
        parts[part][place] = 99.0
        ids, values, total = top_k_finder.find(parts, 10, np.float32(1.0))
        assert ids[0] == place + part * len(parts[0])
        assert values[0] == 99.0
        assert total == pytest.approx(1.0)


def test_a_forbidden_logit_is_not_found(top_k_finder: TopKFinder) -> None:
    parts = parts_of(4, "normal")
    best = int(parts[0].argmax())
    parts[0][best] = -1e30
    ids, _, total = top_k_finder.find(parts, 50, np.float32(1.0))
    assert best not in ids
    assert np.isfinite(total)


def test_the_buffers_of_a_head_are_read_anew(top_k_finder: TopKFinder) -> None:
    """A head writes each step's logits to the same place."""
    parts = parts_of(5, "normal")
    for step in range(3):
        fresh = parts_of(10 + step, "normal")
        for part, values in zip(parts, fresh, strict=True):
            part[:] = values
        assert (
            top_k_finder.find(parts, 5, np.float32(1.0))[0].tolist()
            == largest(fresh, 5)[0].tolist()
        )


def test_draws_are_the_same_with_and_without_it(top_k_finder: TopKFinder) -> None:
    for trial in range(20):
        parts = parts_of(trial, "normal")
        options = {"temperature": 0.8, "top_k": 50, "top_p": 0.9}
        draws = [
            sample_text(parts, rng=np.random.default_rng(trial), top_k_finder=use, **options)  # type: ignore[arg-type]
            for use in (None, top_k_finder)
        ]
        assert draws[0] == draws[1]


def test_short_logits_and_many_wanted_are_numpys(top_k_finder: TopKFinder) -> None:
    long, short = np.zeros(WORTH_IT, np.float32), np.zeros(ROW - 1, np.float32)
    assert top_k_finder.is_worthwhile([long], 50)
    assert not top_k_finder.is_worthwhile([long[:-1]], 50)
    assert not top_k_finder.is_worthwhile([long, short], 50)
    assert top_k_finder.is_worthwhile([long], WORTH_IT // ROW)
    assert not top_k_finder.is_worthwhile([long], WORTH_IT // ROW + 1)
    assert not top_k_finder.is_worthwhile([long], 0)


def test_the_graph_in_the_package_is_the_one_that_is_written(tmp_path) -> None:
    write(top_k_model(), tmp_path / "top_k.onnx")
    assert onnx.load(GRAPH) == onnx.load(tmp_path / "top_k.onnx")
    assert onnx.load(GRAPH) == top_k_model()
