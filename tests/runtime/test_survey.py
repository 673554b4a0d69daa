"""The graph that goes over long logits finds what numpy finds."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from ttt_export.runtime_graphs import survey_model, write
from ttt_runtime.sampler import largest, sample_text, sum_of_exp
from ttt_runtime.session import SessionSettings
from ttt_runtime.survey import GRAPH, ROW, WORTH_IT, Survey


@pytest.fixture(scope="module")
def survey() -> Survey:
    return Survey(SessionSettings(threads=1))


def parts_of(seed: int, kind: str) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    sizes = (151_684, 16_388)  # text and speech rows of the released shape: both leave a rest
    if kind == "equals":
        return [draw.integers(0, 4, size).astype(np.float32) for size in sizes]
    return [(draw.standard_normal(size) * 4).astype(np.float32) for size in sizes]


@pytest.mark.parametrize("kind", ["normal", "equals"])
@pytest.mark.parametrize("count", [1, 10, 64])
def test_it_finds_what_numpy_finds(survey: Survey, kind: str, count: int) -> None:
    parts = parts_of(count, kind)
    per_unit = np.float32(1.25)
    ids, values, total = survey.look(parts, count, per_unit)
    want_ids, want_values = largest(parts, count)
    np.testing.assert_array_equal(ids, want_ids)
    np.testing.assert_array_equal(values, want_values)
    assert total == pytest.approx(sum_of_exp(parts, want_values[0], per_unit), rel=1e-5)


def test_the_best_may_stand_in_the_rest_or_in_the_second_part(survey: Survey) -> None:
    for part, place in ((0, 151_683), (1, 3), (1, 16_387)):
        parts = parts_of(9, "normal")
        parts[part][place] = 99.0
        ids, values, total = survey.look(parts, 10, np.float32(1.0))
        assert ids[0] == place + part * len(parts[0])
        assert values[0] == 99.0
        assert total == pytest.approx(1.0)


def test_a_forbidden_logit_is_not_found(survey: Survey) -> None:
    parts = parts_of(4, "normal")
    best = int(parts[0].argmax())
    parts[0][best] = -1e30
    ids, _, total = survey.look(parts, 50, np.float32(1.0))
    assert best not in ids
    assert np.isfinite(total)


def test_the_buffers_of_a_head_are_read_anew(survey: Survey) -> None:
    """A head writes each step's logits to the same place."""
    parts = parts_of(5, "normal")
    for step in range(3):
        fresh = parts_of(10 + step, "normal")
        for part, values in zip(parts, fresh, strict=True):
            part[:] = values
        assert survey.look(parts, 5, np.float32(1.0))[0].tolist() == largest(fresh, 5)[0].tolist()


def test_draws_are_the_same_with_and_without_it(survey: Survey) -> None:
    for trial in range(20):
        parts = parts_of(trial, "normal")
        options = {"temperature": 0.8, "top_k": 50, "top_p": 0.9}
        draws = [
            sample_text(parts, rng=np.random.default_rng(trial), survey=use, **options)  # type: ignore[arg-type]
            for use in (None, survey)
        ]
        assert draws[0] == draws[1]


def test_short_logits_and_many_wanted_are_numpys(survey: Survey) -> None:
    long, short = np.zeros(WORTH_IT, np.float32), np.zeros(ROW - 1, np.float32)
    assert survey.serves([long], 50)
    assert not survey.serves([long[:-1]], 50)
    assert not survey.serves([long, short], 50)
    assert survey.serves([long], WORTH_IT // ROW)
    assert not survey.serves([long], WORTH_IT // ROW + 1)
    assert not survey.serves([long], 0)


def test_the_graph_in_the_package_is_the_one_that_is_written(tmp_path) -> None:
    write(survey_model(), tmp_path / "survey.onnx")
    assert onnx.load(GRAPH) == onnx.load(tmp_path / "survey.onnx")
    assert onnx.load(GRAPH) == survey_model()
