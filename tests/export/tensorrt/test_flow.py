"""The way around the builder: cache, stamps, refusals, timing cache, interruption. No TensorRT."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.export.tensorrt.fake_trt import NO_GPU, ORIN, FakeModule
from tests.export.tensorrt.graphs import MODEL, write_bundle
from ttt_export.tensorrt import cache as cache_module
from ttt_export.tensorrt.cache import EngineCache
from ttt_export.tensorrt.engines import BuiltEngine, build_engines, build_graph_engines
from ttt_export.tensorrt.profiles import SpanShape
from ttt_export.tensorrt.request import BuildOptions
from ttt_quant.scheme import Scheme
from ttt_ref.errors import BundleError, ConfigError, DeviceError, ExportError
from ttt_runtime.backends.tensorrt.stamp import read_stamp, stamp_path
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.bundle.graph_spec import decoder_spec
from ttt_runtime.machine.gpu import Gpu, GpuReport

GRAPHS = ("decoder", "text_head", "speech_head")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", Scheme("float16"), "tensorrt")


@pytest.fixture
def trt(bundle: Path) -> FakeModule:
    graphs = Bundle.open(bundle).config.graphs
    return FakeModule({entry.file: entry.spec for entry in graphs.values()})


def build(
    bundle: Path, trt: FakeModule, probe: GpuReport = ORIN, **more: object
) -> list[BuiltEngine]:
    return build_engines(bundle, backend=trt.backend(), probe=lambda: probe, **more)  # type: ignore[arg-type]


def test_engines_appear_with_stamps_and_are_recorded(bundle: Path, trt: FakeModule) -> None:
    built = build(bundle, trt)
    assert [item.graph for item in built] == list(GRAPHS)
    opened = Bundle.open(bundle, verify="hashes")  # every recorded hash is true
    for item in built:
        record = opened.config.made_with["engines"][item.graph]
        assert opened.file(record["file"]) == item.path
        assert read_stamp(item.path) == item.stamp
        assert record["architecture"] == "sm_87"
        assert item.stamp.identity.version == trt.__version__
        assert item.stamp.build["seconds"] >= 0
        assert item.stamp.build["peak_memory_bytes"] > 10 * 2**20
    assert not [p for p in (bundle / "engines").iterdir() if p.name.endswith(".tmp")]


def test_a_second_build_builds_nothing(bundle: Path, trt: FakeModule) -> None:
    first = build(bundle, trt)
    config = (bundle / "ttt_config.json").read_bytes()
    second = build(bundle, trt)
    assert trt.builds == 3
    assert [item.reused for item in second] == [True] * 3
    assert [item.path for item in second] == [item.path for item in first]
    assert (bundle / "ttt_config.json").read_bytes() == config


@pytest.mark.parametrize("what", ["version", "gpu", "profiles", "options", "graph"])
def test_whatever_decides_an_engine_makes_another(bundle: Path, trt: FakeModule, what: str) -> None:
    before = {item.graph: item.path.name for item in build(bundle, trt)}
    graphs = Bundle.open(bundle).config.graphs
    backend, probe, spans, options = trt.backend(), ORIN, SpanShape(), BuildOptions()
    changed = GRAPHS
    if what == "version":
        backend = replace(backend, version="10.16.0.1")
    elif what == "gpu":
        probe = GpuReport(gpus=(Gpu(0, "Thor", (11, 0)),))
    elif what == "profiles":
        spans = SpanShape((20,), 512)
    elif what == "options":
        options = BuildOptions(workspace_mib=64)
    else:  # one byte of the decoder's weights
        data = bundle / "decoder.onnx.data"
        data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])
        changed = ("decoder",)
    after = {
        item.graph: (item.path.name, item.reused)
        for item in build_graph_engines(
            bundle,
            graphs,
            "tensorrt",
            backend=backend,
            probe=lambda: probe,
            spans=spans,
            options=options,
        )
    }
    for graph in GRAPHS:
        is_new = graph in changed
        assert after[graph][1] is not is_new
        assert (after[graph][0] != before[graph]) is is_new
    # The engine of another GPU stays, a replaced one of the same GPU goes.
    left = {p.name for p in (bundle / "engines").glob("decoder-*.engine")}
    assert left == (
        {before["decoder"], after["decoder"][0]} if what == "gpu" else {after["decoder"][0]}
    )


@pytest.mark.parametrize("damage", ["cut", "changed", "no stamp", "stamp text", "stamp changed"])
def test_a_damaged_engine_is_built_again(bundle: Path, trt: FakeModule, damage: str) -> None:
    path = build(bundle, trt)[0].path
    stamp = stamp_path(path)
    good = path.read_bytes()
    if damage == "cut":
        path.write_bytes(good[:-1])
    elif damage == "changed":
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    elif damage == "no stamp":
        stamp.unlink()
    elif damage == "stamp text":
        stamp.write_text("{")
    else:
        stamp.write_text(json.dumps({**json.loads(stamp.read_text()), "version": "10.99"}))
    again = build(bundle, trt)
    assert [item.reused for item in again] == [False, True, True]
    assert read_stamp(path).engine_bytes == path.stat().st_size
    Bundle.open(bundle, verify="hashes")


def test_a_build_that_breaks_off_leaves_nothing_that_could_be_run(
    bundle: Path, trt: FakeModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine may die between the engine's rename and the stamp's."""
    monkeypatch.setattr(cache_module, "stamp_path", lambda path: path / "no folder" / "stamp")
    with pytest.raises(OSError):
        build(bundle, trt)
    engines = bundle / "engines"
    assert [p.suffix for p in engines.iterdir()] == [".engine"]
    with pytest.raises(BundleError, match="has no stamp"):
        read_stamp(next(engines.iterdir()))
    Bundle.open(bundle, verify="hashes")


def test_a_failed_build_says_why_and_records_nothing(bundle: Path, trt: FakeModule) -> None:
    trt.fail_build = "Error Code 10:\n no implementation for node X"
    config = (bundle / "ttt_config.json").read_bytes()
    with pytest.raises(
        ExportError, match=r"graph decoder: TensorRT .* no implementation for node X"
    ) as caught:
        build(bundle, trt)
    assert "\n" not in str(caught.value)
    assert (bundle / "ttt_config.json").read_bytes() == config
    assert not (bundle / "engines").exists()


def test_tensorrt_without_a_gpu_is_one_line(bundle: Path, trt: FakeModule) -> None:
    with pytest.raises(DeviceError, match=r"needs an NVIDIA GPU and its driver.*libcuda"):
        build(bundle, trt, NO_GPU)
    assert trt.builds == 0


def test_the_parsed_network_is_held_against_the_spec(bundle: Path, trt: FakeModule) -> None:
    trt.specs["decoder.onnx"] = decoder_spec(MODEL, 256, "float16", "heads")
    with pytest.raises(ExportError, match=r"input mask was parsed as bool \[-1, 256\]"):
        build(bundle, trt)
    trt.specs["decoder.onnx"] = decoder_spec(MODEL, 128, "float32", "heads")
    with pytest.raises(ExportError, match="embeds was parsed as float32"):
        build(bundle, trt)
    three = replace(MODEL, num_hidden_layers=3)
    trt.specs["decoder.onnx"] = decoder_spec(three, 128, "float16", "heads")
    with pytest.raises(ExportError, match=r"inputs differ from the spec in past_k\.2, past_v\.2"):
        build(bundle, trt)


def test_kernel_times_are_kept_and_foreign_ones_are_dropped(bundle: Path, trt: FakeModule) -> None:
    build(bundle, trt)
    kept = EngineCache(bundle / "engines").timing_cache()
    assert kept == b"+1+1+1"  # each graph went on from the last
    trt.foreign_timing_cache = True
    build(bundle, trt, options=BuildOptions(workspace_mib=32))
    assert EngineCache(bundle / "engines").timing_cache() == b"+1"


def test_options_reach_the_builder(bundle: Path, trt: FakeModule) -> None:
    build(bundle, trt, options=BuildOptions(workspace_mib=32))
    assert f"workspace {32 * 2**20}" in trt.told
    backend = trt.backend("rtx")
    options = BuildOptions(architectures=("sm_86", "sm_75"))
    built = build_engines(bundle, "rtx", backend=backend, probe=lambda: NO_GPU, options=options)
    assert built[0].stamp.identity.architecture == "sm_75+sm_86"
    assert "0:SM75" in trt.told
    assert "1:SM86" in trt.told
    assert "--computeCapabilities=75,86" in built[0].command
    with pytest.raises(ExportError, match="sm_99 is unknown to this builder; it has sm_75, sm_86"):
        build_engines(
            bundle,
            "rtx",
            backend=backend,
            probe=lambda: NO_GPU,
            options=BuildOptions(architectures=("sm_99",)),
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workspace_mib": 0}, "workspace of 0 MiB"),
        ({"optimization_level": 6}, "optimization level 6"),
        ({"architectures": ("ampere",)}, "'ampere'"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BuildOptions(**options)  # type: ignore[arg-type]


def test_tensorrt_takes_no_architectures(bundle: Path, trt: FakeModule) -> None:
    with pytest.raises(ConfigError, match="builds for the GPU at hand"):
        build(bundle, trt, options=BuildOptions(architectures=("sm_87",)))


def test_the_command_line_names_every_profile(bundle: Path, trt: FakeModule) -> None:
    decoder, text_head, _ = build(bundle, trt, options=BuildOptions(workspace_mib=32))
    words = decoder.command.split()
    assert words[0] == "trtexec"
    assert f"--onnx={bundle}/decoder.onnx" in words
    assert f"--saveEngine={decoder.path}" in words
    assert "--stronglyTyped" in words
    assert [w for w in words if w.startswith("--profile")] == [f"--profile={i}" for i in range(3)]
    assert "--optShapes=embeds:1x27x64,positions:1x27,mask:27x128" in words
    assert "--memPoolSize=workspace:32M" in words
    assert f"--timingCacheFile={bundle}/engines/timing.cache" in words
    assert "--minShapes=hidden:2x64" in text_head.command.split()


def test_ctrl_c_stops_the_builder_between_two_steps(bundle: Path, trt: FakeModule) -> None:
    """The signal must not raise inside native code: the builder is asked to stop instead."""
    trt.cancel_at = 1
    trt.interrupt = lambda: os.kill(os.getpid(), signal.SIGINT)  # type: ignore[method-assign]
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        build(bundle, trt)
    assert signal.getsignal(signal.SIGINT) is before
    assert not (bundle / "engines").exists()


def test_a_bundle_for_another_engine_is_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "cpu", Scheme("float16"), "cpu")
    with pytest.raises(DeviceError, match="'cpu' is no TensorRT engine; expected tensorrt or rtx"):
        build_engines(bundle)


def test_a_device_builds_engines_without_torch_or_onnx() -> None:
    code = (
        "import sys; import ttt_export.tensorrt.cli, ttt_export.tensorrt.engines; "
        "print(sorted({'torch', 'onnx', 'transformers'} & set(sys.modules)))"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.stdout.strip() == "[]"
