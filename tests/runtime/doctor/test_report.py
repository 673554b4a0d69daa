"""What a bundle needs, and the command that says it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.runtime.bundles import write_toy
from tests.runtime.versions import needs_standard_onnxruntime
from ttt_ref.errors import DeviceError
from ttt_runtime.backends import requirements as needs
from ttt_runtime.backends.ort.runner import OrtRunner
from ttt_runtime.backends.probe import EngineStatus
from ttt_runtime.backends.requirements import (
    Need,
    bundle_needs,
    cache_bytes,
    explain_bundle,
    needed_memory,
)
from ttt_runtime.bundle.basic_spec import BASIC, OPERATORS
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.bundle.manifest import CodecEntry
from ttt_runtime.cli import doctor as cli
from ttt_runtime.doctor.audio_devices import AudioDevices
from ttt_runtime.doctor.report import collect, print_report
from ttt_runtime.machine.gpu import Gpu, GpuReport
from ttt_runtime.machine.host import Memory
from ttt_runtime.machine.versions import precision_mismatch

NOWHERE = GpuReport(problem="no NVIDIA GPU or driver (libcuda.so.1 is not there)")
PLENTY = Memory(2**40, 2**39, 0)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(write_toy(tmp_path / "toy"))


def with_engine(bundle: Bundle, engine: str, precision: str = "fp16") -> Bundle:
    config = replace(bundle.config, engine=engine, precision=precision)
    return Bundle(bundle.path, config)


@needs_standard_onnxruntime
def test_a_cpu_bundle_runs_here(bundle: Bundle) -> None:
    assert all(need.met for need in bundle_needs(bundle))
    assert explain_bundle(bundle) is None


def test_memory_is_weights_cache_and_program(bundle: Bundle) -> None:
    files = sum(record.bytes for record in bundle.config.files.values())
    model = bundle.config.model
    rows = min(4096, model.max_position_embeddings)
    row_bytes = 4 * model.num_key_value_heads * model.head_dim
    assert cache_bytes(bundle) == 2 * model.num_hidden_layers * rows * row_bytes
    assert needed_memory(bundle) == files + cache_bytes(bundle) + needs.PROGRAM_BYTES


@pytest.mark.parametrize("form", ["standard", "basic"])
def test_an_engine_stands_for_the_graphs_and_the_codec_is_there_all_the_same(
    bundle: Bundle, form: str
) -> None:
    """The codec of an engine's bundle went uncounted, and so did the second cache of basic ones."""
    entry = bundle.config.graphs["decoder"]
    record = bundle.config.files[entry.file]
    attributes = {**entry.spec.attributes, **({OPERATORS: BASIC} if form == "basic" else {})}
    entry = replace(entry, spec=replace(entry.spec, attributes=attributes))
    files = {
        **{name: replace(record, bytes=1) for name in (entry.file, f"{entry.file}.data")},
        "engines/decoder.engine": replace(record, bytes=10**6),
        "codec/speech_decoder.onnx": replace(record, bytes=10**7),
        "embeddings.bin": replace(record, bytes=10**8),
    }
    config = replace(bundle.config, files=files, graphs={"decoder": entry})
    engine = with_engine(Bundle(bundle.path, config), "tensorrt")
    cache = cache_bytes(bundle) * (2 if form == "basic" else 1)
    assert needed_memory(engine) == 111 * 10**6 + cache + needs.PROGRAM_BYTES


def test_the_cpu_keeps_float32_copies_of_16_bit_weights(bundle: Bundle) -> None:
    wide = {entry.file for entry in bundle.config.graphs.values()}
    files = bundle.config.files.items()
    graphs = sum(record.bytes for name, record in files if name.removesuffix(".data") in wide)
    assert graphs > 0
    more = needed_memory(with_engine(bundle, "cpu", "fp16")) - needed_memory(bundle)
    assert more == graphs
    assert needed_memory(with_engine(bundle, "cuda", "fp16")) == needed_memory(bundle)


def test_too_little_memory_is_told_with_both_numbers(bundle: Bundle) -> None:
    poor = Memory(2**33, 100 * 2**20, 0)
    last = bundle_needs(bundle, memory=poor)[-1]
    assert not last.met
    assert "100 MiB available" in last.detail
    assert "about 200 MiB" in last.detail


def test_a_gpu_bundle_is_measured_against_the_gpu(bundle: Bundle) -> None:
    gpu = Gpu(0, "Small", (8, 9), 2**30, 50 * 2**20)
    status = EngineStatus("cuda", True, version="1.31.1")
    report = GpuReport(gpus=(gpu,))
    last = bundle_needs(with_engine(bundle, "cuda"), status, report, PLENTY)[-1]
    assert not last.met
    assert "50 MiB free on Small" in last.detail


def test_an_older_onnxruntime_than_the_one_that_validated(bundle: Bundle) -> None:
    config = replace(bundle.config, made_with={"onnxruntime": "1.31.1"})
    for version, met in (("1.30.9", False), ("1.31.0", True), ("1.32.0", True)):
        status = EngineStatus("cpu", True, version=version)
        found = bundle_needs(Bundle(bundle.path, config), status, NOWHERE, PLENTY)
        need = next(n for n in found if n.name == "onnxruntime")
        assert need.met is met


def test_a_cuda_bundle_may_run_on_the_cpu_but_not_in_bfloat16(bundle: Bundle) -> None:
    status = EngineStatus("cuda", False, version="1.31.1", problem="no GPU", fix="get one")
    half = bundle_needs(with_engine(bundle, "cuda"), status, NOWHERE, PLENTY)[0]
    assert half.met
    assert "--device cpu runs this bundle too" in half.detail
    brain = bundle_needs(with_engine(bundle, "cuda", "bf16"), status, NOWHERE, PLENTY)[0]
    assert not brain.met


def test_a_gpu_too_old_for_the_bundles_precision(bundle: Bundle) -> None:
    status = EngineStatus("cuda", True, version="1.31.1")
    turing = GpuReport(gpus=(Gpu(0, "RTX 2080", (7, 5)),))
    found = bundle_needs(with_engine(bundle, "cuda", "bf16"), status, turing, PLENTY)
    assert "bf16 needs sm_80" in next(n.detail for n in found if not n.met)
    ampere = Gpu(0, "RTX 3080", (8, 6))
    assert "fp8 needs sm_89" in (precision_mismatch("fp8", ampere) or "")
    found = bundle_needs(with_engine(bundle, "cuda", "fp16"), status, turing, PLENTY)
    assert all(need.met for need in found)


def test_the_codec_of_an_engine_bundle_runs_where_onnxruntime_can(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(bundle.config, engine="rtx", codec=CodecEntry("builtin"))
    status = EngineStatus("rtx", False, version=None)
    for cuda_loads, place in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(
            needs,
            "check_engine",
            lambda name, gpus=None, loads=cuda_loads: EngineStatus(name, name == "cpu" or loads),
        )
        found = bundle_needs(Bundle(bundle.path, config), status, NOWHERE, PLENTY)
        assert next(n.detail for n in found if n.name == "codec") == f"runs on {place}"


def test_the_runtime_refuses_a_bundle_in_the_doctors_words(tmp_path: Path) -> None:
    bundle = Bundle.open(write_toy(tmp_path / "rtx", engine="rtx"))
    reason = explain_bundle(bundle)
    assert reason is not None
    assert "toy cannot run on this machine: it was made for rtx: " in reason
    with pytest.raises(DeviceError) as caught:
        OrtRunner.from_bundle(bundle)
    assert str(caught.value) == f"{reason}; export it with -e cpu"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["ttt-doctor", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(str(caught.value.code))


def test_the_command_without_a_bundle(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["good"] is True
    assert [e["name"] for e in found["engines"]] == ["cpu", "cuda", "tensorrt", "rtx"]
    assert found["memory"]["available_bytes"] > 0
    assert found["python"].startswith("3.")
    assert found["needs"] == []


@needs_standard_onnxruntime
def test_the_command_with_a_bundle_that_runs(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, bundle.path) == 0
    out = capsys.readouterr().out
    assert "bundle toy can run on this machine" in out
    assert "pipinstall'.[gpu]'" in out.replace("\n", "").replace("│", "").replace(" ", "")


def test_the_command_with_a_bundle_that_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_toy(tmp_path / "rtx", engine="rtx")
    assert run(monkeypatch, path) == cli.EXIT_CANNOT_RUN
    reason = explain_bundle(Bundle.open(path))
    assert reason is not None
    assert reason in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [("/no/such/bundle",), ("--jason",)])
def test_bad_arguments_are_one_line(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_brackets_in_advice_are_not_markup(bundle: Bundle) -> None:
    """The advice for a missing microphone was `pip install 'ttt-edge'`: `[mic]` was markup."""
    report = replace(
        collect(bundle.path),
        engines=[EngineStatus("cpu", False, problem="no [bold]thing", fix="pip install 'x[cpu]'")],
        audio=AudioDevices("alsa", ("mic [red]",), (), "pip install 'x[mic]'"),
        kernels="none [green]",
        bundle="a [blue] bundle",
        needs=[Need("engine", False, "pip install 'x[gpu]'")],
    )
    out = io.StringIO()
    print_report(report, Console(file=out, width=200))
    for text in (
        "no [bold]thing; pip install 'x[cpu]'",
        "mic [red]",
        "pip install 'x[mic]'",
        "none [green]",
        "a [blue] bundle",
        "pip install 'x[gpu]'",
    ):
        assert text in out.getvalue(), text


def test_a_machine_on_which_nothing_loads_is_not_good() -> None:
    report = replace(collect(), engines=[EngineStatus("cpu", False, problem="x")])
    assert not report.good
