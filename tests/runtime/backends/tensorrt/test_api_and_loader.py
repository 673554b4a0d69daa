"""Loading the API and engines: what is missing or does not fit is one line, and nothing runs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.runtime.bundles import MODEL
from ttt_ref.errors import BundleError, DeviceError
from ttt_runtime.backends.tensorrt.api import Backend, find_flavour, load_backend, require_parser
from ttt_runtime.backends.tensorrt.kernel_cache import KernelCache, kernel_cache_path
from ttt_runtime.backends.tensorrt.loader import FoundEngine, deserialize, find_engine, require_gpu
from ttt_runtime.backends.tensorrt.stamp import (
    AHEAD_OF_TIME,
    EngineIdentity,
    EngineStamp,
    graph_sha256,
    mismatch,
    read_stamp,
    recorded_sha256,
    stamp_path,
    this_platform,
)
from ttt_runtime.bundle.basic_spec import BASIC, OPERATORS
from ttt_runtime.bundle.folder import sha256_of
from ttt_runtime.bundle.graph_spec import decoder_spec
from ttt_runtime.bundle.manifest import FileRecord
from ttt_runtime.machine.gpu import Gpu, GpuReport
from ttt_runtime.machine.versions import version_tuple

ORIN = Gpu(0, "Orin", (8, 7))
TURING = Gpu(0, "RTX 2080", (7, 5))
ADA = Gpu(0, "RTX 4090", (8, 9))


def module(version: str) -> ModuleType:
    made = ModuleType("tensorrt")
    made.__version__ = version  # type: ignore[attr-defined]
    return made


def missing(name: str) -> ModuleType:
    raise ModuleNotFoundError(f"No module named {name!r}")


def broken(name: str) -> ModuleType:
    raise ImportError("libnvinfer.so.10: cannot open shared object file:\n No such file")


@pytest.mark.parametrize("engine", ["tensorrt", "rtx"])
def test_a_missing_api_says_what_to_install(engine: str) -> None:
    with pytest.raises(DeviceError, match=rf"is not installed; run: pip install .*\[{engine}\]"):
        load_backend(engine, missing)


def test_an_api_without_its_libraries_says_so_on_one_line() -> None:
    with pytest.raises(DeviceError, match=r"cannot be loaded \(libnvinfer") as caught:
        load_backend("tensorrt", broken)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("engine", "version", "good"),
    [
        ("tensorrt", "8.6.2", False),
        ("tensorrt", "10.3.0.30", True),
        ("tensorrt", "10.15.1.29", True),
        ("tensorrt", "11.4.0.106", True),
        ("rtx", "1.4.0.76", False),
        ("rtx", "1.7.1.116", True),
    ],
)
def test_versions_that_do_not_know_the_graphs_are_refused(
    engine: str, version: str, good: bool
) -> None:
    if good:
        assert load_backend(engine, lambda _: module(version)).version == version
        return
    with pytest.raises(DeviceError, match=f"{version} is too old"):
        load_backend(engine, lambda _: module(version))


def test_a_parser_too_old_for_standard_graphs_is_named_with_the_way_out() -> None:
    standard = decoder_spec(MODEL, 128, "float16", "heads")
    basic = replace(standard, attributes={**standard.attributes, OPERATORS: BASIC})
    old = backend("10.3.0.30")
    require_parser(old, basic)
    require_parser(backend("10.15.1"), standard)
    with pytest.raises(DeviceError, match=r"TensorRT 10\.3\.0\.30 found, 10\.15 needed") as caught:
        require_parser(old, standard)
    assert "--form basic" in str(caught.value)


def test_versions_are_compared_as_numbers() -> None:
    assert version_tuple("10.14.1.48.post1") == (10, 14, 1, 48)
    assert version_tuple("10.9") < version_tuple("10.15")


def test_another_engine_is_refused() -> None:
    with pytest.raises(DeviceError, match="'cpu' is no TensorRT engine"):
        find_flavour("cpu")


def backend(version: str = "10.15.1", refuse: str = "") -> Backend:
    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING = range(3)

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, data: bytes) -> Any:
            if refuse:
                self.logger.log(ILogger.ERROR, refuse)
                return None
            return SimpleNamespace(data=data)

    trt = SimpleNamespace(ILogger=ILogger, Runtime=Runtime)
    return Backend(find_flavour("tensorrt"), trt, version)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "decoder.onnx"
    path.write_bytes(b"graph")
    path.with_name("decoder.onnx.data").write_bytes(b"weights")
    return path


def put_engine(graph: Path, **changes: Any) -> Path:
    identity = EngineIdentity(
        engine="tensorrt",
        graph="decoder",
        graph_sha256=graph_sha256(graph),
        version="10.15.1",
        architecture="sm_87",
        platform=this_platform(),
        profiles={"text": {"Q": (1, 1, 1)}},
        options={},
    )
    identity = replace(identity, **changes)
    folder = graph.parent / "engines"
    folder.mkdir(exist_ok=True)
    path = folder / identity.file_name
    path.write_bytes(b"engine " + identity.key.encode())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    stamp = EngineStamp(identity, digest, path.stat().st_size)
    stamp_path(path).write_text(json.dumps(stamp.to_dict()))
    return path


def find(graph: Path, gpu: Gpu | None = ORIN) -> FoundEngine:
    return find_engine(graph.parent / "engines", "decoder", graph, backend(), gpu)


def test_the_engine_that_fits_is_found_among_others(graph: Path) -> None:
    put_engine(graph, architecture="sm_89")
    put_engine(graph, version="10.16.0")
    good = put_engine(graph)
    assert find(graph).path == good


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": "10.14.2"}, "was built with version 10.14.2, this is 10.15.1"),
        ({"architecture": "sm_89"}, "was built for sm_89, Orin is sm_87"),
        ({"graph_sha256": "0" * 64}, "was built from another graph"),
        ({"engine": "rtx"}, "is for rtx, not tensorrt"),
        ({"platform": "win32-AMD64"}, "was built on win32-AMD64"),
    ],
)
def test_a_foreign_engine_is_refused_with_its_reason(
    graph: Path, changes: dict[str, str], reason: str
) -> None:
    put_engine(graph, **changes)
    with pytest.raises(DeviceError, match=reason) as caught:
        find(graph)
    assert f"ttt-engines {graph.parent}" in str(caught.value)


def test_new_weights_make_an_engine_stale(graph: Path) -> None:
    put_engine(graph)
    graph.with_name("decoder.onnx.data").write_bytes(b"Weights")
    with pytest.raises(DeviceError, match="was built from another graph"):
        find(graph)


@pytest.mark.parametrize("damage", ["cut", "changed", "no stamp", "key", "not json", "list"])
def test_a_damaged_engine_is_refused(graph: Path, damage: str) -> None:
    path = put_engine(graph)
    stamp = stamp_path(path)
    data = json.loads(stamp.read_text())
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "changed":
        path.write_bytes(b"E" + path.read_bytes()[1:])
    elif damage == "no stamp":
        stamp.unlink()
    elif damage == "key":  # somebody edits the stamp until it fits
        stamp.write_text(json.dumps({**data, "architecture": "sm_89"}))
    else:
        stamp.write_text("{" if damage == "not json" else "[]")
    with pytest.raises(DeviceError, match=r"build (it|the engine) again"):
        find(graph, ADA if damage == "key" else ORIN)


def test_a_stamp_of_the_future_is_refused(graph: Path) -> None:
    path = put_engine(graph)
    data = json.loads(stamp_path(path).read_text())
    stamp_path(path).write_text(json.dumps({**data, "format": 2}))
    with pytest.raises(BundleError, match="stamp format 2, expected 1"):
        read_stamp(path)


def test_links_and_names_that_are_paths_are_refused(graph: Path) -> None:
    """A bundle comes from elsewhere: its graph names and files are not to lead out of it."""
    good = put_engine(graph)
    outside = graph.parent / "elsewhere.engine"
    good.rename(outside)
    good.symlink_to(outside)
    with pytest.raises(DeviceError, match="is a link"):
        find(graph)
    with pytest.raises(BundleError, match="no plain word"):
        find_engine(graph.parent / "engines", "../decoder", graph, backend(), ORIN)


def test_no_engine_at_all(graph: Path) -> None:
    with pytest.raises(DeviceError, match="fits: there is none"):
        find(graph)


def test_engines_built_ahead_of_time_run_from_ampere_on(graph: Path) -> None:
    identity = read_stamp(put_engine(graph, engine="rtx", architecture=AHEAD_OF_TIME)).identity

    def why(gpu: Gpu | None) -> str | None:
        return mismatch(
            identity,
            engine="rtx",
            version="10.15.1",
            graph_hash=graph_sha256(graph),
            gpu=gpu,
        )

    assert why(ADA) is None
    assert why(None) is None
    assert why(TURING) == "needs sm_86 or later, RTX 2080 is sm_75"


def test_an_engine_for_several_gpus_runs_on_each(graph: Path) -> None:
    identity = read_stamp(put_engine(graph, architecture="sm_75+sm_89")).identity
    for gpu, fits in ((TURING, True), (ADA, True), (ORIN, False)):
        why = mismatch(
            identity,
            engine="tensorrt",
            version="10.15.1",
            graph_hash=graph_sha256(graph),
            gpu=gpu,
        )
        assert (why is None) is fits


def test_loading_needs_a_gpu_and_says_which_library_is_missing(graph: Path) -> None:
    put_engine(graph)
    found = find(graph, None)
    nothing = GpuReport(problem="no NVIDIA GPU or driver (libcuda.so.1 is not there)")
    with pytest.raises(DeviceError, match=r"libcuda\.so\.1 is not there.*-e cpu"):
        deserialize(backend(), found, lambda: nothing)
    with pytest.raises(DeviceError, match=r"A TensorRT-RTX engine|a TensorRT-RTX engine"):
        require_gpu("rtx", lambda: nothing)


def test_an_engine_that_the_library_refuses_is_one_line(graph: Path) -> None:
    put_engine(graph)
    found = find(graph)
    here = GpuReport(gpus=(ORIN,))
    with pytest.raises(DeviceError, match=r"refuses engine .*: serialization mismatch") as caught:
        deserialize(backend(refuse="serialization\n mismatch"), found, lambda: here)
    assert "\n" not in str(caught.value)
    _, engine = deserialize(backend(), found, lambda: here)
    assert engine.data == found.path.read_bytes()


def test_a_gpu_is_chosen_by_its_number(graph: Path) -> None:
    two = GpuReport(gpus=(ORIN, replace(ADA, index=1)))
    assert require_gpu("rtx", lambda: two, 1).name == "RTX 4090"
    with pytest.raises(DeviceError, match=r"GPU 2 was asked for, this machine has 2: 0 Orin, 1"):
        require_gpu("rtx", lambda: two, 2)


def test_a_large_bundle_is_known_by_its_recorded_hashes(graph: Path) -> None:
    """The same key as from reading the files; a swapped engine of another size is still refused."""
    records = {
        f"graphs/{path.name}": FileRecord(sha256_of(path), path.stat().st_size)
        for path in (graph, graph.with_name("decoder.onnx.data"))
    }
    recorded = recorded_sha256("graphs/decoder.onnx", records)
    assert recorded == graph_sha256(graph)
    path = put_engine(graph)
    graph.write_bytes(b"not read")
    folder = graph.parent / "engines"

    def find_known() -> FoundEngine:
        known = {"graph_hash": recorded, "contents": False}
        return find_engine(folder, "decoder", graph, backend(), ORIN, **known)  # type: ignore[arg-type]

    assert find_known().path == path
    path.write_bytes(path.read_bytes() + b".")
    with pytest.raises(DeviceError, match="bytes, its stamp says"):
        find_known()


class RuntimeConfig:
    """TensorRT-RTX's settings of contexts, as far as the kernel cache uses them."""

    cuda_graph_strategy = "off"

    def create_runtime_cache(self) -> Any:
        config = self

        class Cache:
            def deserialize(self, data: bytes) -> None:
                config.data = data

            def serialize(self) -> bytes:
                return config.data + b"kernel "

        self.data = b""
        return Cache()

    def set_runtime_cache(self, cache: Any) -> None:
        self.cache = cache

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy


def kernel_cache(path: Path, **more: Any) -> KernelCache:
    engine = SimpleNamespace(
        create_runtime_config=RuntimeConfig, create_execution_context=lambda config: config
    )
    trt = SimpleNamespace(CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole"))
    return KernelCache(trt, engine, path, **more)


def test_compiled_kernels_are_kept_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "runtime.kernels"
    for expected in (b"kernel ", b"kernel kernel "):
        cache = kernel_cache(path)
        assert cache.new_context() is not None
        cache.save()
        assert path.read_bytes() == expected
    assert [p.name for p in path.parent.iterdir()] == ["runtime.kernels"]


def test_kernels_that_cannot_be_kept_are_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    kernel_cache(tmp_path / "file" / "below").save()


def test_contexts_get_their_strategy_and_graphs(tmp_path: Path) -> None:
    plain = kernel_cache(tmp_path / "k", strategy="own").new_context()
    assert (plain.strategy, plain.cuda_graph_strategy) == ("own", "off")
    graphs = kernel_cache(tmp_path / "k", graphs=True).new_context()
    assert graphs.cuda_graph_strategy == "whole"


def test_kernels_are_kept_per_engine_and_gpu(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one = read_stamp(put_engine(graph)).identity
    other = replace(one, version="10.16.0")
    paths = {kernel_cache_path(i, gpu) for i in (one, other) for gpu in (ORIN, ADA)}
    assert len(paths) == 4
    assert {path.parent for path in paths} == {tmp_path / "ttt-edge" / "kernels"}
