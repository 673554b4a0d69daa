"""The program that measures exports: real figures, kept rows, failures told."""

from __future__ import annotations

import json

import pytest

from ttt_export import measure
from ttt_export.measure import Measured, measure_export, table
from ttt_ref.errors import ConfigError, ExportError
from ttt_runtime.bundle.folder import Bundle


def test_an_export_is_measured(tied, tmp_path):
    row = measure_export(tied, "int4", "cpu", tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert 100e6 < row.peak_bytes < 2e9
    assert 0 < row.anonymous_bytes < row.peak_bytes
    # The plan's stated peak holds (a bare interpreter with torch and onnxruntime included).
    assert row.peak_bytes < row.planned_bytes
    assert row.bundle_bytes > row.decoder_bytes > row.heads_bytes
    assert row.seconds > 0.5
    assert 0.3 * row.seconds < sum(row.stages.values()) < 1.1 * row.seconds
    assert {"validating", "measuring quality"} <= set(row.stages)
    assert "| tiny-tied | int4 cpu |" in table([row])


def test_a_measured_bundle_can_be_kept(tied, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    measure.measure_command([tied], ["int8"], "cpu", tmp_path, None, kept)
    assert Bundle.open(kept / "tiny-tied-int8-cpu").config.precision == "int8"
    assert list(tmp_path.iterdir()) == [kept]
    with pytest.raises(ConfigError, match="tiny-tied-int8-cpu exists"):
        measure.measure_command([tied], ["int8"], "cpu", tmp_path, None, kept)


def test_a_failed_export_says_why(tied, tmp_path):
    with pytest.raises(ExportError, match=r"in int4 failed: error: .*--cache-rows"):
        measure_export(tied, "int4", "cpu", tmp_path, extra=["--cache-rows", "128"])
    assert list(tmp_path.iterdir()) == []


def test_rows_that_are_there_are_not_measured_again(tied, tmp_path, monkeypatch, capsys):
    done = []

    def fake(checkpoint, precision, engine, folder, keep):
        done.append(precision)
        return Measured(checkpoint.name, precision, engine, 4, 1, 1, 1, 2.0, 9, 8, "x", 9, {})

    monkeypatch.setattr(measure, "measure_export", fake)
    results = tmp_path / "rows.jsonl"
    for kinds in (["int4"], ["int4", "int8"]):
        measure.measure_command([tied], kinds, "cpu", tmp_path, results)
    assert done == ["int4", "int8"]
    assert [json.loads(line)["precision"] for line in results.read_text().splitlines()] == done
    assert capsys.readouterr().out.count("| tiny-tied | int8 cpu |") == 1


def test_table_counts_in_powers_of_ten():
    row = Measured("m", "int4", "cpu", 10**9, 5, 5, 5, 61.4, 25 * 10**8, 10**9, "a", 3 * 10**9, {})
    assert "| 1,000 MB |" in table([row])
    assert "| 61 s | 2.50 GB | 3.00 GB | 1.00 GB | a |" in table([row])
