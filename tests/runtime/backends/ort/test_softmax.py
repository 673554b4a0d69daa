"""The graph that turns long logits into probabilities does what numpy does."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.runtime.backends.ort.test_heads import LAYOUT, WIDTH, lean
from ttt_export.runtime_graphs import softmax_model, write
from ttt_runtime.backends.ort.heads import FORBIDDEN, head_for
from ttt_runtime.backends.ort.session import SessionSettings
from ttt_runtime.backends.ort.softmax import GRAPH, WORTH_IT, Softmax
from ttt_runtime.bundle.graph_spec import TEXT_HEAD


@pytest.fixture(params=[1, 2])
def softmax(request: pytest.FixtureRequest) -> Softmax:
    return Softmax(SessionSettings(threads=request.param))


@pytest.mark.parametrize("shape", [(26, 151_688), (1, 16_384), (27, 16_385)])
@pytest.mark.parametrize("scale", [0.1, 4.0])
def test_it_gives_the_sum_of_exponentials(
    softmax: Softmax, shape: tuple[int, int], scale: float
) -> None:
    """Added in float32 lanes, as torch does: of 151,688 terms both lose 2.4e-5 at worst."""
    logits = np.random.default_rng(1).standard_normal(shape).astype(np.float32) * np.float32(scale)
    logits[0, 7] = FORBIDDEN
    wide = logits.astype(np.float64)
    best = np.arange(len(logits)), logits.argmax(axis=1)
    want = np.exp(wide - wide[best][:, None]).sum(axis=1)
    softmax.in_place(logits)
    np.testing.assert_allclose(1 / logits[best], want, rtol=5e-5)
    assert logits[0, 7] == 0.0


def test_a_buffer_is_read_anew(softmax: Softmax) -> None:
    logits = np.zeros((4, 100), np.float32)
    for rows in (4, 2, 3):
        logits[...] = 0.0
        logits[:, 3] = np.log(101.0)
        softmax.in_place(logits[:rows])
        np.testing.assert_allclose(logits[:rows, 3], 101 / 200, rtol=1e-5)
        assert (logits[rows:, 0] == 0.0).all()


def test_a_head_says_the_same_with_and_without_it(
    tmp_path, softmax: Softmax, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, _ = lean(tmp_path, TEXT_HEAD, LAYOUT.audio_start)
    hidden = np.random.default_rng(2).standard_normal((5, WIDTH)).astype(np.float32)
    plain = head_for(session, LAYOUT).best(hidden)
    want = plain.ids, plain.logits, plain.sum_exp
    monkeypatch.setattr("ttt_runtime.backends.ort.softmax.WORTH_IT", 1)
    best = head_for(session, LAYOUT, softmax).best(hidden)
    for got, value in zip((best.ids, best.logits, best.sum_exp), want, strict=True):
        np.testing.assert_allclose(got, value, rtol=1e-5)


def test_few_logits_are_numpys(softmax: Softmax) -> None:
    assert softmax.is_worthwhile(np.zeros((1, WORTH_IT), np.float32))
    assert not softmax.is_worthwhile(np.zeros((1, WORTH_IT - 1), np.float32))


def test_the_graph_in_the_package_is_the_one_that_is_written(tmp_path) -> None:
    write(softmax_model(), tmp_path / "softmax.onnx")
    assert onnx.load(GRAPH) == onnx.load(tmp_path / "softmax.onnx")
