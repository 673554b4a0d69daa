"""Engines really built from our graphs by TensorRT-RTX, which needs no GPU for that."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.export.tensorrt.graphs import MODEL, write_graphs
from ttt_export.export import export_checkpoint
from ttt_export.options import ExportOptions
from ttt_export.tensorrt.builder import build_engine
from ttt_export.tensorrt.engines import BuiltEngine, build_engines
from ttt_export.tensorrt.network import allow_plain_attention, check_network, parse_network
from ttt_export.tensorrt.profiles import Profile
from ttt_export.tensorrt.progress import Silent
from ttt_export.tensorrt.request import BuildOptions, build_request
from ttt_quant.scheme import Scheme
from ttt_ref.config import ModelConfig
from ttt_ref.errors import DeviceError, ExportError, TttError
from ttt_ref.random_weights import random_checkpoint
from ttt_runtime.backends.tensorrt.api import Backend, load_backend
from ttt_runtime.backends.tensorrt.loader import deserialize, find_bundle_engine, find_engine
from ttt_runtime.backends.tensorrt.stamp import AHEAD_OF_TIME, read_stamp
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.bundle.graph_spec import decoder_spec
from ttt_runtime.bundle.manifest import GraphEntry
from ttt_runtime.machine.gpu import probe_gpus

pytestmark = [
    pytest.mark.tensorrt,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx-cu13 not installed"
    ),
]

WIDE = ModelConfig(
    hidden_size=512,
    intermediate_size=2048,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=MODEL.vocab_size,
)
WIDE_WEIGHTS = 512 * (512 + 2 * 256) + 512 * 512 + 3 * 512 * 2048
TEXT_STEP = Profile("text", {"Q": (1, 1, 1)})
BLOCK = Profile("block", {"Q": (2, 27, 128)})


class Recorder(Silent):
    """Keeps what the builder reports, and cancels at a given step."""

    def __init__(self, cancel_at: int | None = None) -> None:
        super().__init__()
        self.phases: list[tuple[str, int, int]] = []
        self.details: set[str] = set()
        self._cancel_at = cancel_at

    def phase(self, name: str, step: int, steps: int) -> None:
        self.phases.append((name, step, steps))
        if step == self._cancel_at:
            self.cancel()

    def detail(self, name: str) -> None:
        self.details.add(name)


@dataclass
class Exported:
    """A bundle and the engines that were built into it."""

    path: Path
    built: Mapping[str, BuiltEngine]
    lines: list[str]


@pytest.fixture(scope="module")
def backend() -> Backend:
    return load_backend("rtx")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, golden_checkpoints: list[Path]) -> Exported:
    """A whole `ttt-export -p fp16 -e rtx`."""
    path = tmp_path_factory.mktemp("rtx") / "bundle"
    lines: list[str] = []
    options = ExportOptions(precision="fp16", engine="rtx", cache_rows=128)
    export_checkpoint(golden_checkpoints[0], path, options=options, progress=lines.append)
    return Exported(path, {item.graph: item for item in build_engines(path)}, lines)


def one_engine(
    backend: Backend, graph: Path, entry: GraphEntry, profile: Profile, reporter: Silent
) -> int:
    """Build an engine and return its size in bytes."""
    request = build_request(backend, entry.spec, graph, (profile,), BuildOptions(), AHEAD_OF_TIME)
    return memoryview(build_engine(backend, request, reporter).engine).nbytes


def test_an_export_for_rtx_holds_an_engine_of_every_graph(
    exported: Exported, backend: Backend
) -> None:
    assert list(exported.built) == ["decoder", "text_head", "speech_head"]
    bundle = Bundle.open(exported.path, verify="hashes")
    for item in exported.built.values():
        assert item.reused  # the export built it, and it is the one that fits
        stamp = read_stamp(item.path)
        assert stamp.engine_bytes == item.path.stat().st_size > 10**5
        assert stamp.identity.version == backend.version
        assert stamp.identity.architecture == AHEAD_OF_TIME
        assert stamp.build["peak_memory_bytes"] > 2**26
        record = bundle.config.made_with["engines"][item.graph]
        assert bundle.file(record["file"]) == item.path
        assert record["key"] == stamp.identity.key
    decoder = exported.built["decoder"]
    assert list(decoder.stamp.identity.profiles) == ["text", "block", "prefill"]
    assert any(decoder.command in line for line in exported.lines)
    assert str(exported.path / "decoder.onnx") in decoder.command


def test_an_int4_export_holds_an_engine_of_every_graph(
    tmp_path: Path, golden_checkpoints: list[Path], backend: Backend
) -> None:
    """With the recipe's own mix: 4 bits in the layers, 8 in the speech head."""
    path = tmp_path / "bundle"
    options = ExportOptions(
        precision="int4", engine="rtx", cache_rows=128, max_kl=1e9, min_agreement=0.0
    )
    export_checkpoint(golden_checkpoints[0], path, options=options)
    bundle = Bundle.open(path, verify="hashes")
    for name in ("decoder", "text_head", "speech_head"):
        found = find_bundle_engine(bundle, name, backend, None)
        assert found.stamp.identity.architecture == AHEAD_OF_TIME
        assert found.stamp.identity.graph == name


def test_a_cache_too_short_is_told_before_the_long_work(
    tmp_path: Path, golden_checkpoints: list[Path]
) -> None:
    stages: list[str] = []
    options = ExportOptions(precision="fp16", engine="rtx", cache_rows=64)
    with pytest.raises(TttError, match="--cache-rows"):
        export_checkpoint(
            golden_checkpoints[0], tmp_path / "out", options=options, progress=stages.append
        )
    assert not any("writing" in stage for stage in stages)
    assert list(tmp_path.iterdir()) == []


def test_tensorrt_is_refused_before_the_export_begins(
    tmp_path: Path, golden_checkpoints: list[Path]
) -> None:
    if importlib.util.find_spec("tensorrt") is not None and probe_gpus().gpus:
        pytest.skip("this machine has TensorRT and a GPU")
    options = ExportOptions(precision="fp16", engine="tensorrt")
    with pytest.raises(DeviceError, match=r"TensorRT"):
        export_checkpoint(golden_checkpoints[0], tmp_path / "out", options=options)
    assert list(tmp_path.iterdir()) == []


def test_the_library_itself_knows_the_engine_header(exported: Exported, backend: Backend) -> None:
    """The file is an engine of this very library version, not merely bytes."""
    runtime = backend.trt.Runtime(backend.new_logger())
    data = exported.built["decoder"].path.read_bytes()
    header = data[: runtime.engine_header_size]
    backend.clear()
    runtime.get_engine_validity(data)
    whole = [message for _, message in backend.messages]
    backend.clear()
    runtime.get_engine_validity(bytes(len(header)))
    broken = [message for _, message in backend.messages]
    assert whole != broken


def test_loading_without_a_gpu_says_so_in_one_line(exported: Exported, backend: Backend) -> None:
    graph = exported.path / "decoder.onnx"
    found = find_engine(exported.path / "engines", "decoder", graph, backend, None)
    assert found.path == exported.built["decoder"].path
    if probe_gpus().gpus:
        pytest.skip("this machine has a GPU")
    with pytest.raises(DeviceError, match="needs an NVIDIA GPU and its driver") as caught:
        deserialize(backend, found)
    assert "\n" not in str(caught.value)


def test_an_int4_decoder_builds_with_two_layers(tmp_path: Path, backend: Backend) -> None:
    entry = write_graphs(tmp_path, Scheme("int4", block=32), heads=False)["decoder"]
    reporter = Recorder()
    assert one_engine(backend, tmp_path / entry.file, entry, BLOCK, reporter) > 10**5
    name, last, steps = reporter.phases[-1]
    assert last == steps > 1, f"{name} did not finish"
    assert len(reporter.details) > 3


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_other_compute_types_build(tmp_path: Path, backend: Backend, dtype: str) -> None:
    """float32 attention has no fused kernel: it builds only because plain operations may do."""
    entry = write_graphs(tmp_path, Scheme(dtype), dtype=dtype, heads=False)["decoder"]
    assert one_engine(backend, tmp_path / entry.file, entry, TEXT_STEP, Silent()) > 10**5


@pytest.mark.parametrize(
    ("scheme", "dtype"),
    [
        (Scheme("float32"), "float32"),
        (Scheme("float16"), "float16"),
        (Scheme("bfloat16"), "bfloat16"),
        (Scheme("int4", block=32), "float16"),
        (Scheme("int8", whole_columns=True), "float16"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.kind,
)
@pytest.mark.parametrize("profile", [TEXT_STEP, BLOCK], ids=lambda profile: profile.name)
def test_the_basic_form_builds(
    tmp_path: Path, backend: Backend, scheme: Scheme, dtype: str, profile: Profile
) -> None:
    entry = write_graphs(tmp_path, scheme, dtype=dtype, heads=False, basic=True)["decoder"]
    assert one_engine(backend, tmp_path / entry.file, entry, profile, Silent()) > 10**5


def test_a_whole_basic_export_holds_engines(
    tmp_path: Path, golden_checkpoints: list[Path], backend: Backend
) -> None:
    options = ExportOptions(
        precision="int4", engine="rtx", cache_rows=128, max_kl=1e9, min_agreement=0.0, form="basic"
    )
    export_checkpoint(golden_checkpoints[0], tmp_path / "bundle", options=options)
    bundle = Bundle.open(tmp_path / "bundle", verify="hashes")
    for name in ("decoder", "text_head", "speech_head"):
        assert find_bundle_engine(bundle, name, backend, None).stamp.identity.graph == name


@pytest.mark.slow
def test_engines_of_half_a_billion_weights_in_basic_operators(
    tmp_path: Path, backend: Backend
) -> None:
    """The shape of Qwen2.5-0.5B in int4, all profiles, validation and gates' measures included."""
    random_checkpoint(tmp_path / "checkpoint", "qwen2.5-0.5b")
    options = ExportOptions(
        precision="int4", engine="rtx", cache_rows=1024, max_kl=1e9, min_agreement=0.0, form="basic"
    )
    export_checkpoint(tmp_path / "checkpoint", tmp_path / "bundle", options=options)
    bundle = Bundle.open(tmp_path / "bundle", verify="hashes")
    for name in ("decoder", "text_head", "speech_head"):
        engine = find_bundle_engine(bundle, name, backend, None)
        stored = bundle.config.files[f"{name}.onnx.data"].bytes
        assert engine.path.stat().st_size == pytest.approx(stored, rel=0.25), name


@pytest.mark.parametrize("basic", [False, True], ids=["standard", "basic"])
def test_int4_weights_are_stored_in_four_bits(
    tmp_path: Path, backend: Backend, basic: bool
) -> None:
    """By size: float16 takes 2 bytes a weight, int4 in blocks of 128 half a byte and a scale."""
    sizes = {}
    for kind, scheme in (("float16", Scheme("float16")), ("int4", Scheme("int4", block=128))):
        folder = tmp_path / kind
        entry = write_graphs(folder, scheme, model=WIDE, heads=False, basic=basic)["decoder"]
        sizes[kind] = one_engine(backend, folder / entry.file, entry, TEXT_STEP, Silent())
    saved = sizes["float16"] - sizes["int4"]
    expected = WIDE_WEIGHTS * (2 - 0.5 - 2 / 128)
    assert sizes["float16"] >= 2 * WIDE_WEIGHTS
    assert saved == pytest.approx(expected, rel=0.1)


def test_every_attention_is_found_and_may_be_plain(tmp_path: Path, backend: Backend) -> None:
    write_graphs(tmp_path, Scheme("float16"), heads=False)
    logger = backend.new_logger()
    builder = backend.trt.Builder(logger)
    network, parser = parse_network(backend, builder, logger, tmp_path / "decoder.onnx")
    assert allow_plain_attention(backend.trt, network) == MODEL.num_hidden_layers
    del parser


def test_the_real_parser_is_held_against_the_spec(tmp_path: Path, backend: Backend) -> None:
    entry = write_graphs(tmp_path, Scheme("float16"), heads=False)["decoder"]
    logger = backend.new_logger()
    builder = backend.trt.Builder(logger)
    network, parser = parse_network(backend, builder, logger, tmp_path / entry.file)
    check_network(network, entry.spec)
    with pytest.raises(ExportError, match=r"past_k\.0 was parsed as float16"):
        check_network(network, decoder_spec(MODEL, 128, "float16", "rows"))
    del parser


def test_a_graph_that_the_parser_does_not_take_names_the_node(
    tmp_path: Path, backend: Backend
) -> None:
    """A cache of three axes is what the CPU likes and TensorRT refuses."""
    from tests.export.tensorrt.graphs import RandomWeights
    from ttt_export.calibrate import PlainQuantizer
    from ttt_export.decoder_graph import DecoderEmitter
    from ttt_export.writer import GraphWriter

    spec = decoder_spec(MODEL, 128, "float16", "rows")
    with GraphWriter(tmp_path / "decoder.onnx") as writer:
        keep = lambda name, width: Scheme("float16")  # noqa: E731
        emitter = DecoderEmitter(writer, MODEL, spec, keep, PlainQuantizer())
        emitter.emit(RandomWeights(MODEL), progress=lambda line: None)
    logger = backend.new_logger()
    builder = backend.trt.Builder(logger)
    with pytest.raises(ExportError, match=r"cannot parse node 'present_k\.0' \(TensorScatter\)"):
        parse_network(backend, builder, logger, tmp_path / "decoder.onnx")


def test_a_cancelled_build_gives_no_engine(tmp_path: Path, backend: Backend) -> None:
    entry = write_graphs(tmp_path, Scheme("float16"), heads=False)["decoder"]
    with pytest.raises(KeyboardInterrupt):
        one_engine(backend, tmp_path / entry.file, entry, TEXT_STEP, Recorder(cancel_at=1))
