"""``ttt-doctor --report``: limits, parity and times of every way that a bundle runs here."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.runtime.versions import needs_standard_onnxruntime
from ttt_ref.errors import ConfigError
from ttt_runtime.backends.native.library import missing
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.cli import doctor
from ttt_runtime.cli.assistant_run import SHIPPED
from ttt_runtime.doctor import report
from ttt_runtime.machine.gpu import Gpu, GpuReport
from ttt_runtime.profiler import board_report as module
from ttt_runtime.profiler.board_report import board_report, ways_of, weight_bytes
from ttt_runtime.profiler.device_parity import compute_of


@needs_standard_onnxruntime
def test_both_ways_of_the_cpu_are_compared_and_timed() -> None:
    stages: list[str] = []
    found = board_report([Bundle.open(SHIPPED)], stages.append, prompts=1, repeats=2)
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
        # The kernels may round an 8-bit input the other way: within the bound of such bundles.
        assert ways["cpu+native"]["parity"]["compute"] == "int8"
        assert ways["cpu+native"]["parity"]["passed"]
    json.dumps(found)
    assert stages[0].startswith("limits")


def test_ways_that_do_not_load_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(SHIPPED)
    engine = Bundle(bundle.path, replace(bundle.config, engine="tensorrt"))
    assert ways_of(engine) == ["tensorrt", "tensorrt+graphs"]
    monkeypatch.setattr(module, "measure_limits", lambda settings, size: FakeLimits())
    monkeypatch.setattr(module, "asdict", lambda value: {})
    rows = board_report([engine], prompts=1, repeats=1)["ways"]
    assert [row["device"] for row in rows] == ["tensorrt", "tensorrt+graphs"]
    assert all("\n" not in row["error"] for row in rows)


class FakeLimits:
    """Stands for what takes seconds to measure."""


def test_the_command_writes_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def fake(bundles: list[Bundle], say: Any) -> dict[str, Any]:
        say("something")
        seen.append([bundle.config.name for bundle in bundles])
        return {"limits": {}, "ways": []}

    monkeypatch.setattr(module, "board_report", fake)
    file = tmp_path / "report.json"
    done = CliRunner().invoke(doctor.app, ["--report", str(file)])
    assert done.exit_code == 0, done.output
    written = json.loads(file.read_text(encoding="utf-8"))
    assert written["machine"]["target"] is not None
    assert written["ways"] == []
    assert set(written["machine"]["power"]) >= {"governor", "mode", "warmest_c"}
    own = shutil.copytree(SHIPPED, tmp_path / "own")
    done = CliRunner().invoke(doctor.app, [str(own), "--report", str(file)])
    assert [len(names) for names in seen] == [1, 2]  # the shipped one is always there
    done = CliRunner().invoke(doctor.app, ["--report", str(tmp_path / "none" / "report.json")])
    assert isinstance(done.exception, ConfigError)


@pytest.mark.parametrize(
    ("engine", "precision", "cuda", "expected"),
    [
        ("cpu", "fp32", True, ["cpu+native", "cpu+onnxruntime", "cuda", "cuda+graphs"]),
        ("cpu", "fp32", False, ["cpu+native", "cpu+onnxruntime"]),
        ("cpu", "int4", True, ["cpu+native", "cpu+onnxruntime"]),
        ("cuda", "fp16", True, ["cuda", "cuda+graphs", "cpu+native", "cpu+onnxruntime"]),
        ("rtx", "int4", True, ["rtx", "rtx+graphs"]),
    ],
)
def test_a_gpu_that_a_bundle_can_use_is_among_its_ways(
    monkeypatch: pytest.MonkeyPatch, engine: str, precision: str, cuda: bool, expected: list[str]
) -> None:
    shipped = Bundle.open(SHIPPED)
    monkeypatch.setattr(module, "check_engine", lambda name: SimpleNamespace(loads=cuda))
    config = replace(shipped.config, engine=engine, precision=precision)
    assert ways_of(Bundle(shipped.path, config)) == expected


def test_a_gpu_without_a_bundle_is_not_passed_over_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "board_report", lambda bundles, say: {"limits": {}, "ways": []})
    gpu = Gpu(0, "Orin", (8, 7), None, None)
    monkeypatch.setattr(report, "probe_gpus", lambda: GpuReport((gpu,), None, None, None, None))
    file = tmp_path / "report.json"
    CliRunner().invoke(doctor.app, ["--report", str(file)])
    (row,) = json.loads(file.read_text(encoding="utf-8"))["ways"]
    assert row["device"] == "gpu"
    assert "ttt-export --target" in row["error"]


@pytest.mark.parametrize(
    ("engine", "precision", "compute"),
    [("cpu", "int8", "int8"), ("cpu", "fp32", "float32"), ("cuda", "int8", "float32")],
)
def test_the_bound_goes_by_what_products_take(engine: str, precision: str, compute: str) -> None:
    bundle = Bundle.open(SHIPPED)
    config = replace(bundle.config, engine=engine, precision=precision)
    assert compute_of(Bundle(bundle.path, config)) == compute
