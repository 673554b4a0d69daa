"""--compare: pairs that alternate, an interval, and what it may claim."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.profiler.conftest import Run
from tests.runtime.profiler.test_profile import SHORT
from ttt_ref.errors import ConfigError
from ttt_runtime.decode.approximations import Approximations
from ttt_runtime.profiler import compare as comparing
from ttt_runtime.profiler.bench import Bench, ProfileOptions, Turn
from ttt_runtime.profiler.compare import changed, compare, comparison_document, verdict
from ttt_runtime.profiler.figures import Interval, median_interval


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for number in range(200):
        interval = median_interval(rng.normal(3.0, 1.0, 40).tolist(), seed=number)
        assert interval.low <= interval.median <= interval.high
        held += interval.low <= 3.0 <= interval.high
    assert 180 <= held <= 199
    one = median_interval([2.0])
    assert (one.low, one.median, one.high) == (2.0, 2.0, 2.0)


def test_only_an_interval_without_one_is_a_difference() -> None:
    assert verdict(Interval(0.8, 0.7, 0.9)) == "B is faster"
    assert verdict(Interval(1.2, 1.1, 1.3)) == "B is slower"
    assert verdict(Interval(0.9, 0.7, 1.1)) == "no difference shown"


def test_pairs_alternate_and_both_sides_are_measured(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[bool] = []

    class Watched(Bench):
        def turn(self) -> Turn:
            order.append(self.options.overlap)
            return super().turn()

    monkeypatch.setattr(comparing, "Bench", Watched)
    a = ProfileOptions(bundle, repeats=4, warm_up=0)
    found = compare(a, dataclasses.replace(a, overlap=True))
    measured = order[2:]  # one pair to warm up
    assert measured == [False, True, True, False, False, True, True, False]
    assert [len(side) for side in found.turns] == [4, 4]
    doc = comparison_document(found)
    row = doc["figures"]["total_ms"]
    assert row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]
    pairs = [b.timeline.total_ms / a.timeline.total_ms for a, b in zip(*found.turns, strict=True)]
    assert row["ratio"]["median"] == pytest.approx(np.median(pairs), rel=1e-3)


def test_more_passes_are_found_to_be_slower(bundle: Path, run: Run) -> None:
    arguments = (bundle, "--compare", "--b", "steps=4", "--steps", 1, *SHORT, "-r", 12)
    code, out, _ = run(*arguments)
    assert code == 0
    doc = json.loads(out.splitlines()[-1])
    assert doc["figures"]["block_ms"]["verdict"] == "B is slower"
    assert doc["pairs"] == 12
    assert "steps=4" in out.splitlines()[0]
    fast = ("--exactness", "fast", "--compare", "--b", "fast=guidance=off", *SHORT)
    code, out, _ = run(bundle, *fast)
    assert out.splitlines()[0].endswith("(fast=guidance=off)")
    code, out, _ = run(bundle, bundle, "--compare", *SHORT, "-o", "csv")
    assert code == 0
    rows = list(csv.DictReader(out.splitlines()[:-1]))
    assert {"figure", "ratio_low", "ratio_high"} <= set(rows[0])
    assert "total_ms" in {row["figure"] for row in rows}
    assert json.loads(out.splitlines()[-1])["pairs"] == 2


def test_changes_of_b(bundle: Path) -> None:
    base = ProfileOptions(bundle)
    found = changed(base, ["exactness=fast", "fast=end_slot", "fast=threshold=0.5", "threads=2"])
    assert found.exactness == "fast"
    assert found.fast == Approximations(end_slot=True, threshold=0.5)
    assert (found.threads, found.bundle) == (2, bundle)
    back = changed(found, ["exactness=exact", "overlap=on"])
    assert (back.fast, back.overlap) == (None, True)
    for item, word in (
        ("speed=9", "speed=9"),
        ("threads", "NAME=VALUE"),
        ("threads=x", "whole number"),
        ("overlap=maybe", "on or off"),
        ("fast=end_slot", "needs --exactness fast"),
    ):
        with pytest.raises(ConfigError, match=word):
            changed(base, [item])


def test_mistakes_are_one_line(bundle: Path, run: Run, tmp_path: Path) -> None:
    for arguments, word in (
        ((bundle, "--compare"), "got 1 bundles"),
        ((bundle, bundle, bundle, "--compare"), "got 3 bundles"),
        ((bundle, bundle, "--compare", "--steps", "1,2"), "takes no lists"),
        ((bundle, bundle, "--compare", "--trace", tmp_path / "t"), "--trace does not go"),
        ((bundle, tmp_path / "none", "--compare"), "not there"),
        ((bundle, "--compare", "--b", "steps=0"), "steps is 0"),
        ((bundle, "--compare", "--b", "preset=loud"), "unknown preset"),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (2, ""), arguments
        assert err.count("\n") == 1
        assert word in err
