"""The one command for a machine with a GPU, run here over the host's memory."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ttt_export import gpu_report
from ttt_ref.errors import DeviceError
from ttt_runtime.backends.load import cuda_runner
from ttt_runtime.backends.probe import EngineStatus
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.machine.gpu import Gpu, GpuReport
from ttt_runtime.profiler import device_times

HERE = GpuReport(gpus=(Gpu(0, "RTX 4090", (8, 9)),), driver="580.1", cuda="13.0")
NOWHERE = GpuReport(problem="no NVIDIA GPU or driver (libcuda.so.1 is not there)")


def on_the_host(bundle: Bundle, device: str) -> Any:
    if device == "cuda:1":
        raise DeviceError("GPU 1 was asked for, this machine has 1")
    return cuda_runner(bundle, "cpu", threads=1)


def test_parity_and_times_of_a_tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_report, "PARITY_PRECISIONS", ("fp32",))
    monkeypatch.setattr(device_times, "CONTEXTS", (16,))
    monkeypatch.setattr(device_times, "PREFILL_ROWS", 32)
    found = gpu_report.report(
        ["tiny"], ["cuda", "cuda:1"], tmp_path, load=on_the_host, repeats=1, prompts=2
    )
    good, bad = found["parity"]
    assert good["passed"]
    assert (good["precision"], good["prompts"]) == ("fp32", 2)
    assert bad["error"] == "GPU 1 was asked for, this machine has 1"
    assert [row["size"] for row in found["times"]] == ["tiny", "tiny"]
    assert {t["what"] for t in found["times"][0]["times"]} == {
        "decoder", "text step", "block pass", "text head", "speech head",
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == []  # bundles and checkpoints are gone
    text = gpu_report.markdown(json.loads(json.dumps(found)))
    assert "- cuda fp32: passed: logits differ by" in text
    assert "leak probe, rows that must not see a change" in text
    assert "## tiny fp16 on cuda" in text
    assert "not run: GPU 1 was asked for" in text


def test_a_leak_on_the_device_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner whose mask lets every row see every other one, as a careless kernel would."""
    monkeypatch.setattr(gpu_report, "PARITY_PRECISIONS", ("fp32",))

    def all_see_all(ids: Any, start: int, audio_start: int, out: Any) -> None:
        out[...] = False
        out[:, : start + len(ids)] = True

    monkeypatch.setattr("ttt_runtime.backends.gpu.runner.write_mask", all_see_all)
    found = gpu_report.report([], ["cuda"], tmp_path, load=on_the_host, repeats=1, prompts=1)
    assert not found["parity"][0]["passed"]


def test_engines_are_timed_in_four_bits_too() -> None:
    assert gpu_report.precisions_of("cuda:1+graphs") == ("fp16",)
    assert gpu_report.precisions_of("rtx+graphs") == ("fp16", "int4")


def test_devices_that_do_not_load_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(name: str, gpus: GpuReport) -> EngineStatus:
        return EngineStatus(name, name == "rtx", problem=f"no {name} here")

    monkeypatch.setattr(gpu_report, "check_engine", check)
    assert gpu_report.usable_devices(["cuda", "rtx+graphs"], HERE) == ["rtx+graphs"]
    with pytest.raises(DeviceError, match="none of the devices loads; cuda: no cuda here"):
        gpu_report.usable_devices(["cuda"], HERE)
    with pytest.raises(DeviceError, match="needs a GPU: no NVIDIA GPU or driver"):
        gpu_report.usable_devices(["cuda"], NOWHERE)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["out.json"], "error: this report needs a GPU: no NVIDIA GPU"),
        (["out.json", "--sizes", "9b"], "error: unknown size '9b'; known: 0.5b"),
    ],
)
def test_one_line_without_a_gpu(
    arguments: list[str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(gpu_report, "probe_gpus", lambda: NOWHERE)
    monkeypatch.setattr(sys, "argv", ["gpu_report", *arguments])
    with pytest.raises(SystemExit) as caught:
        gpu_report.run_app(gpu_report.app)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(line)
    assert err.count("\n") == 1
