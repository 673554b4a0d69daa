"""The figures of the quality report, against numbers made by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ttt_quant.recipe import Gates
from ttt_quant.report import (
    ChoiceMeter,
    EndTags,
    QualityReport,
    end_tag_ranks,
    kl_divergence,
    summarize_ranks,
)

INF = np.inf


def test_kl_of_known_distributions():
    want = np.log(np.array([[0.5, 0.25, 0.25]], np.float32))
    got = np.log(np.array([[0.25, 0.25, 0.5]], np.float32))
    expected = 0.5 * np.log(2) + 0.25 * np.log(0.5)
    np.testing.assert_allclose(kl_divergence(want, got), [expected], rtol=1e-5)
    # Logits may be shifted at will, and a forbidden id counts for nothing.
    shifted = np.concatenate((got + 7, [[-INF]]), axis=1).astype(np.float32)
    padded = np.concatenate((want - 3, [[-INF]]), axis=1).astype(np.float32)
    np.testing.assert_allclose(kl_divergence(padded, shifted), [expected], rtol=1e-5)


def test_meter():
    meter = ChoiceMeter()
    meter.add(np.array([[1.0, 0], [0, 1]], np.float32), np.array([[1.0, 0], [2, 1]], np.float32))
    meter.add(np.array([[3.0, 0]], np.float32), np.array([[2.5, 0]], np.float32))
    result = meter.result()
    assert result.count == 3
    assert result.agreement == pytest.approx(2 / 3)
    assert result.max_diff == 2.0
    assert result.mean_diff == pytest.approx(2.5 / 6)
    assert result.kl_max > result.kl_mean > 0


def test_ranks():
    logits = np.array([[5.0, 1, 3, 2], [0, 9, 1, 2]], np.float32)
    assert end_tag_ranks(logits, [1, 2]).tolist() == [[3, 1], [0, 2]]
    tags = summarize_ranks(np.array([[3, 1], [0, 2]]), np.array([[3, 0], [1, 2]]))
    assert tags == EndTags(count=4, same=0.5, crossed=0.5, mean_shift=0.5, near=0.5)
    far = summarize_ranks(np.array([[30, 1], [20, 2]]), np.array([[31, 1], [22, 2]]))
    assert (far.same, far.near) == (0.5, 1.0)


def report(kl=0.01, equal=0.99):
    meter = ChoiceMeter()
    choices = meter.result()
    from dataclasses import replace

    measured = replace(choices, count=10, kl_mean=kl, agreement=equal)
    return QualityReport("r", "s", measured, choices, EndTags(0, 1, 0, 0), Gates(0.02, 0.95))


@pytest.mark.parametrize(
    ("kl", "equal", "failures"),
    [(0.01, 0.99, 0), (0.03, 0.99, 1), (0.01, 0.9, 1), (0.5, 0.1, 2), (np.nan, np.nan, 2)],
)
def test_gates(kl, equal, failures):
    assert len(report(kl, equal).failures()) == failures


def test_report_is_json_and_a_table():
    made = report()
    assert json.loads(json.dumps(made.to_dict()))["text"]["count"] == 10
    assert "next text token" in made.table()
    assert "all reached" in made.table()


def test_table_tells_each_graphs_differences():
    from dataclasses import replace

    checks = [
        {"name": "decoder, open span", "max_diff": 2e-5, "mean_diff": 1e-6, "tolerance": 1e-4},
        {"name": "decoder, text steps", "max_diff": 3e-5, "mean_diff": 3e-6, "tolerance": 1e-4},
        {"name": "text_head logits", "max_diff": 1e-6, "mean_diff": 1e-7, "tolerance": 1e-4},
    ]
    text = replace(report(), checks=checks).table()
    assert "decoder against ttt_ref: max diff 3.00e-05, mean 2.00e-06" in text
    assert "text_head against ttt_ref: max diff 1.00e-06, mean 1.00e-07" in text
    assert "speech_head against" not in text


def test_the_codec_has_its_lines():
    from dataclasses import replace

    codec = {
        "precision": "int8",
        "difference": {"token_agreement": 0.98, "mel_rms_db": 0.25},
        "solver": {"steps": 4, "name": "ab2"},
    }
    assert "codec" not in report().table()
    made = replace(report(), codec=codec)
    assert "codec in int8, against torch: token_agreement 0.98, mel_rms_db 0.25" in made.table()
    assert "codec solver: 4 steps of ab2" in made.table()
    assert made.to_dict()["codec"] == codec
