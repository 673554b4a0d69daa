"""--baseline: an exit code of its own for what got slower, and only for that."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.profiler.conftest import Run
from tests.runtime.profiler.test_profile import SHORT
from ttt_ref.errors import ConfigError
from ttt_runtime.profiler.baseline import EXIT_REGRESSION, hold_against, limit_of, read_baseline


@pytest.fixture
def report(bundle: Path, run: Run, tmp_path: Path) -> Path:
    code, out, _ = run(bundle, *SHORT)
    assert code == 0
    path = tmp_path / "baseline.md"
    path.write_text(out)  # a whole report: its last line is the document
    return path


def scaled(report: Path, factor: float) -> dict[str, Any]:
    document = read_baseline(report)
    for rows in (document["turn"], document["phases_ms"]):
        for row in rows.values():
            row["p50"] = row["p50"] and row["p50"] * factor
    return document


def test_slower_than_allowed_exits_with_its_own_code(bundle: Path, report: Path, run: Run) -> None:
    assert EXIT_REGRESSION not in (0, 1, 2, 130, 143)
    report.write_text(json.dumps(scaled(report, 0.001)))
    code, out, err = run(bundle, *SHORT, "--baseline", report, "--max-regression", "50%")
    assert (code, err) == (EXIT_REGRESSION, "")
    found = json.loads(out.splitlines()[-1])["baseline"]
    assert "total_ms_p50" in found["regressions"]
    assert "regression: total_ms_p50" in out
    report.write_text(json.dumps(scaled(report, 1e6)))
    code, out, _ = run(bundle, *SHORT, "--baseline", report)
    assert code == 0
    assert json.loads(out.splitlines()[-1])["baseline"]["max_regression"] == 0.1


def test_each_figure_is_held_to_the_limit(report: Path) -> None:
    now, before = scaled(report, 1.19), read_baseline(report)
    assert hold_against(now, before, 0.2)["regressions"] == []
    now["phases_ms"]["block"]["p50"] *= 1.1
    found = hold_against(now, before, 0.2)
    assert found["regressions"] == ["block_ms_p50"]
    assert found["compared"]["block_ms_p50"]["ratio"] == pytest.approx(1.309, abs=0.02)
    assert found["same_machine"]
    now["machine"]["threads"] = 64
    assert not hold_against(now, before, 0.2)["same_machine"]


@pytest.mark.parametrize(
    ("text", "share"), [("0.1", 0.1), ("10%", 0.1), (" 5 % ", 0.05), ("0", 0.0)]
)
def test_limits_that_can_be_read(text: str, share: float) -> None:
    assert limit_of(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "-0.1", "fast", "nan", "5000%", "%"])
def test_limits_that_cannot(text: str) -> None:
    with pytest.raises(ConfigError, match="max-regression"):
        limit_of(text)


def test_mistakes_are_one_line(bundle: Path, report: Path, run: Run, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("no profile\n{}")
    listed = tmp_path / "list"
    listed.write_text("[1]")
    foreign = tmp_path / "foreign"
    foreign.write_text('{"turn": {}, "phases_ms": {}}')
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    for arguments, word in (
        (("--baseline", tmp_path / "missing"), "missing"),
        (("--baseline", other), "is no profile"),
        (("--baseline", listed), "is no profile"),
        (("--baseline", binary), "is not UTF-16"),
        (("--baseline", foreign), "is no profile"),
        (("--baseline", tmp_path), "is a folder"),
        (("--baseline", report, "--max-regression", "much"), "'much'"),
        (("--baseline", report, "--text-tokens", "5"), "measured with shape"),
        (("--baseline", report, "--steps", "1,2"), "does not go with a sweep"),
    ):
        code, out, err = run(bundle, *SHORT, *arguments)
        assert (code, out) == (2, ""), arguments
        assert err.count("\n") == 1
        assert word in err


def spoilt(document: dict[str, Any], table: str, value: object) -> None:
    for row in document[table].values():
        row["p50"] = value


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda d: spoilt(d, "turn", -3.0), "has ttfa_ms_p50 -3"),
        (lambda d: spoilt(d, "phases_ms", float("nan")), "nan, which nothing can take"),
        (lambda d: d.update(rss_peak_mib=float("inf")), "has rss_peak_mib inf"),
        (lambda d: d["turn"].update(ttfa_ms=5), "is no profile"),
        (lambda d: d.update(machine=[1]), "is no profile"),
    ],
)
def test_figures_that_cannot_be_are_told_before_measuring(
    bundle: Path, report: Path, run: Run, change: Callable[[dict[str, Any]], None], word: str
) -> None:
    """A negative or endless figure passed as "not slower"; a foreign table was a traceback."""
    document = read_baseline(report)
    change(document)
    report.write_text(json.dumps(document))
    code, out, err = run(bundle, *SHORT, "--baseline", report)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert word in err


def test_figures_of_nothing(report: Path) -> None:
    document = read_baseline(report)
    spoilt(document, "turn", 0)
    one = json.dumps(document)
    spoilt(document, "phases_ms", 0)
    document["rss_peak_mib"] = 0
    report.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="no figure above 0"):
        read_baseline(report)
    report.write_text(one)  # some may have been rounded to nothing
    assert read_baseline(report) == json.loads(one)
