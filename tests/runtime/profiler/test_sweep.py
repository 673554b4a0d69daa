"""Sweeps: every point once, the right front, and pictures that need nothing else."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.profiler.conftest import SHIPPED, Run
from tests.runtime.versions import needs_standard_onnxruntime
from ttt_ref.errors import ConfigError
from ttt_runtime.profiler import sweep as sweeping
from ttt_runtime.profiler.bench import ProfileOptions
from ttt_runtime.profiler.plot import write_plot
from ttt_runtime.profiler.sweep import front, grid


def point(**figures: Any) -> dict[str, Any]:
    return {
        "bundle": "b<1>", "precision": "int8", "steps": 2, "block": 26, "threads": 1,
        "ttfa_ms": 1.0, "rtf": 0.1, "tpot_ms": 1.0, "passes_a_second_of_audio": 2.0,
        "rss_peak_mib": 100.0, "underruns": 0, **figures,
    }  # fmt: skip


def test_a_front_holds_what_nothing_beats() -> None:
    cells = [
        point(rtf=0.3, ttfa_ms=10.0, passes_a_second_of_audio=8),
        point(rtf=0.1, ttfa_ms=30.0, passes_a_second_of_audio=1),
        point(rtf=0.2, ttfa_ms=40.0, passes_a_second_of_audio=2),
        point(rtf=0.2, ttfa_ms=20.0, passes_a_second_of_audio=0.5),
        point(rtf=0.3, ttfa_ms=None, passes_a_second_of_audio=8),
    ]
    assert front(cells, "rtf", "ttfa_ms") == [1, 3, 0]
    # More passes are better: the cheapest, and those that run more at a higher cost.
    assert front(cells, "rtf", "passes_a_second_of_audio") == [1, 2, 0, 4]


def test_the_grid_is_whole_and_refuses_what_cannot_run(bundle: Path) -> None:
    options = ProfileOptions(bundle, threads=3)
    points = grid(options, [bundle], [1, 2], [None], [1, 2])
    assert [(p.steps, p.block, p.threads) for p in points] == [
        (1, None, 1), (1, None, 2), (2, None, 1), (2, None, 2),
    ]  # fmt: skip
    assert grid(options, [bundle], [None], [None], [None]) == [options]
    with pytest.raises(ConfigError, match="401 points"):
        grid(options, [bundle], [None], [None], list(range(1, 402)))


@needs_standard_onnxruntime
def test_a_sweep_of_the_shipped_bundle(run: Run, tmp_path: Path) -> None:
    other = tmp_path / "again"
    shutil.copytree(SHIPPED, other)
    plots = [tmp_path / name for name in ("p.png", "p.svg", "p.html")]
    arguments = [SHIPPED, other, "--steps", "1,3", "--threads", 1, "-r", 1, "--warm-up", 0]
    arguments += ["--spans", 1, "--question-seconds", 0.5]
    for path in plots:
        arguments += ["--plot", path]
    code, out, _ = run(*arguments)
    assert code == 0
    doc = json.loads(out.splitlines()[-1])
    cells = doc["sweep"]
    assert [(c["steps"], c["threads"]) for c in cells] == [(1, 1), (3, 1)] * 2
    assert all(c["ttfa_ms"] > 0 and c["rss_peak_mib"] > 50 for c in cells)
    few, many = (c["passes_a_second_of_audio"] for c in cells[:2])
    assert many == pytest.approx(3 * few, rel=1e-3)
    assert out.count("| int8 |") == 4
    assert plots[0].read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert "<svg" in plots[1].read_text()
    page = plots[2].read_text()
    assert page.startswith("<!doctype html>")
    assert "<svg" in page
    assert page.count("<tr") == 1 + len(cells)
    # Nothing is fetched from anywhere: no script, link, image or import from outside the page.
    assert not re.search(r"<(script|link|img|iframe)\b|@import|url\(\s*['\"]?http", page)


def test_names_are_escaped_in_the_page(tmp_path: Path) -> None:
    cells = [point(), point(rtf=0.2, ttfa_ms=0.5)]
    doc = {
        "sweep": cells,
        "fronts": {f"{y} over {x}": front(cells, x, y) for x, y in sweeping.FRONTS},
        "machine": {"cpu": "<script>alert(1)</script>"},
    }
    path = tmp_path / "p.html"
    write_plot(doc, path)
    page = path.read_text()
    assert "<script>" not in page
    assert "b&lt;1&gt;" in page


def test_csv_has_a_row_a_point(bundle: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = {"cpu": "toy", "threads": 1, "load_average": 0}
    documents = iter([{**point(steps=1)}, {**point(steps=2)}])
    monkeypatch.setattr(sweeping, "_measured", lambda point: {})
    monkeypatch.setattr(sweeping, "_cell", lambda doc: {**next(documents), "machine": machine})
    code, out, _ = run(bundle, "--steps", "1,2", "-o", "csv")
    assert code == 0
    rows = list(csv.DictReader(out.splitlines()[:-1]))
    assert [row["steps"] for row in rows] == ["1", "2"]
    assert json.loads(out.splitlines()[-1])["machine"]["cpu"] == "toy"


@needs_standard_onnxruntime
def test_mistakes_are_one_line(
    bundle: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = (bundle, "--steps", "1,2")
    for arguments, word in (
        ((*sweep, "--plot", tmp_path / "p.pdf"), ".png, .svg, .html"),
        ((*sweep, "--plot", tmp_path / "none" / "p.png"), "none"),
        ((*sweep, "--trace", tmp_path / "t"), "does not go with a sweep"),
        ((bundle, tmp_path / "missing"), "not there"),
        ((bundle, "--steps", "1,99999"), "4096"),
        # The toy bundle's graphs are none: its own process says so, and so does this one.
        (sweep, "decoder.onnx cannot be loaded"),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (2, ""), arguments
        lines = [line for line in err.splitlines() if not line.startswith("[")]  # progress
        assert len(lines) == 1
        assert word in lines[0]
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, err = run(*sweep, "--plot", tmp_path / "p.png")
    assert (code, out) == (2, "")
    assert "pip install '.[plot]'" in err
