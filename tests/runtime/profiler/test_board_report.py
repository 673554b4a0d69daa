"""``ttt-doctor --report``: limits, parity and times of every way that a bundle runs here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.runtime.versions import needs_standard_onnxruntime
from ttt_ref.errors import ConfigError
from ttt_runtime.backends.native.library import missing
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.cli import doctor
from ttt_runtime.cli.assistant_run import SHIPPED
from ttt_runtime.profiler import board_report as module
from ttt_runtime.profiler.board_report import board_report, ways_of, weight_bytes


@needs_standard_onnxruntime
def test_both_ways_of_the_cpu_are_compared_and_timed() -> None:
    stages: list[str] = []
    found = board_report(Bundle.open(SHIPPED), stages.append, prompts=1, repeats=2)
    assert found["limits"]["memory_gbps"] > 0
    assert found["limits"]["weights_bytes"] == weight_bytes(Bundle.open(SHIPPED)) > 10**6
    ways = {row["device"]: row for row in found["ways"]}
    assert list(ways) == ["cpu+native", "cpu+onnxruntime"]
    assert "parity" not in ways["cpu+onnxruntime"]  # the others are held to it
    for row in ways.values():
        if row["device"] == "cpu+native" and missing() is not None:
            assert "error" in row
            continue
        assert row["codec"]["decode_ms"] > 0
        assert {"text_step", "block_pass"} & {t["what"].replace(" ", "_") for t in row["times"]}
    if missing() is None:
        assert ways["cpu+native"]["parity"]["prompts"] == 1
    json.dumps(found)
    assert stages[0].startswith("limits")


def test_ways_that_do_not_load_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(SHIPPED)
    engine = Bundle(bundle.path, replace(bundle.config, engine="tensorrt"))
    assert ways_of(engine) == ["tensorrt", "tensorrt+graphs"]
    monkeypatch.setattr(module, "measure_limits", lambda settings, size: FakeLimits())
    monkeypatch.setattr(module, "asdict", lambda value: {})
    rows = board_report(engine, prompts=1, repeats=1)["ways"]
    assert all("\n" not in row["error"] for row in rows)


class FakeLimits:
    """Stands for what takes seconds to measure."""


def test_the_command_writes_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(bundle: Bundle, say: Any) -> dict[str, Any]:
        say("something")
        return {"limits": {}, "ways": []}

    monkeypatch.setattr(module, "board_report", fake)
    file = tmp_path / "report.json"
    done = CliRunner().invoke(doctor.app, ["--report", str(file)])
    assert done.exit_code == 0, done.output
    written = json.loads(file.read_text(encoding="utf-8"))
    assert written["machine"]["target"] is not None
    assert written["ways"] == []
    done = CliRunner().invoke(doctor.app, ["--report", str(tmp_path / "none" / "report.json")])
    assert isinstance(done.exception, ConfigError)
