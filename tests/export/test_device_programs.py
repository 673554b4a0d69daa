"""The programs that somebody with a GPU runs: times of graphs, and parity with the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ttt_ref.errors import exit_on_error
from ttt_runtime.backends.gpu.runner import DeviceRunner
from ttt_runtime.backends.load import cuda_runner, load_runner
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.profiler import device_parity, device_times
from ttt_runtime.profiler.device_parity import compare, on_the_cpu


@pytest.fixture(scope="module")
def bundle(standard: Callable[[Path], Bundle], golden_checkpoints: list[Path]) -> Bundle:
    return standard(golden_checkpoints[0])


@pytest.fixture(scope="module")
def runner(bundle: Bundle) -> DeviceRunner:
    return cuda_runner(bundle, "cpu", threads=1)


def test_all_graphs_and_steps_are_timed(bundle: Bundle, runner: DeviceRunner) -> None:
    contexts = (16, 300, 10**6)
    times = device_times.measure(runner, bundle.config.layout, repeats=2, contexts=contexts)
    kinds = {(t.what, t.rows, t.context) for t in times}
    assert {(w, 1, c) for w in ("decoder", "text step") for c in (16, 300)} <= kinds
    assert {(w, r, 16) for w in ("decoder", "block pass") for r in (27, 32)} <= kinds
    assert {("text head", 1, 0), ("speech head", 32, 0)} <= kinds
    assert any(t.what == "decoder" and t.rows >= 256 and t.context == 0 for t in times)
    assert all(0 < t.least_ms <= t.median_ms for t in times)
    assert len(device_times.table(times).splitlines()) == len(times) + 2


def test_equal_runners_pass(bundle: Bundle, runner: DeviceRunner) -> None:
    found = compare(
        runner, on_the_cpu(bundle, 1), bundle.config.layout, "float32", prompts=4, tokens=30
    )
    assert found.passed
    assert (found.prompts, found.same_ids) == (4, 4)
    assert found.same_codes == found.positions == 2 * (26 + 32)
    assert "equal answers to 4 of 4 prompts" in found.line()


@pytest.mark.parametrize("error", [2.0, float("nan")])
def test_other_logits_fail(
    bundle: Bundle, runner: DeviceRunner, monkeypatch: pytest.MonkeyPatch, error: float
) -> None:
    real = runner.text_logits

    def wrong(hidden: Any, *, forbid_end: bool) -> Any:
        logits = real(hidden, forbid_end=forbid_end)
        logits[-1, 3] += error * np.abs(logits).max()
        return logits

    monkeypatch.setattr(runner, "text_logits", wrong)
    found = compare(
        runner, on_the_cpu(bundle, 1), bundle.config.layout, "float16", prompts=1, tokens=8
    )
    assert not found.passed
    assert found.line().startswith("FAILED: logits differ by")


def test_other_ids_fail_in_float32_only() -> None:
    good = device_parity.Parity("float32", 1e-3, 1e-6, 1e-7, 4, 4, 26, 26)
    assert good.passed
    for change in ({"same_ids": 3}, {"same_codes": 25}):
        assert not replace(good, **change).passed
        assert replace(good, compute="float16", **change).passed
    assert not replace(good, compute="float16", worst=float("nan")).passed


@pytest.mark.parametrize("program", [device_times, device_parity])
def test_without_a_gpu_one_line_says_so(
    program: Any,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(SystemExit) as caught, exit_on_error():
        program.command(bundle.path, device="cuda")
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: device 'cuda' was asked for: ")
    assert err.count("\n") == 1


def test_times_of_the_cpu_as_json(
    bundle: Bundle,
    capsys: pytest.CaptureFixture[str],
) -> None:
    device_times.command(bundle.path, device="cpu", repeats=1, threads=1, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["device"] == "cpu"
    assert found["times"][0]["what"] == "decoder"


def test_a_device_runner_is_one_the_loader_gives(bundle: Bundle) -> None:
    assert not isinstance(load_runner(bundle, "cpu", threads=1), DeviceRunner)
