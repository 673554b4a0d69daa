"""Engines run through contexts, streams and addresses: the same ids as the reference.

No GPU: driver and engines are fakes that compute (see fake_gpu). That the fakes have nothing which
the real modules lack is tested too.
"""

from __future__ import annotations

import gc
import importlib.util
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.export.tensorrt.fake_gpu import CUresult, FakeContext, FakeDriver, FakeEngine, GpuModule
from tests.export.tensorrt.fake_trt import NO_GPU, ORIN
from tests.export.test_same_ids import CONFIGS, random_prompt
from ttt_export.export import export_checkpoint
from ttt_export.options import ExportOptions
from ttt_export.tensorrt.engines import build_engines
from ttt_ref.config import GenerationConfig
from ttt_ref.errors import BundleError, ConfigError, DeviceError, TttError
from ttt_runtime.backends.gpu.cuda import CudaStream, import_driver
from ttt_runtime.backends.gpu.engine_runner import engine_runner
from ttt_runtime.backends.gpu.runner import DeviceRunner
from ttt_runtime.backends.load import load_runner
from ttt_runtime.backends.ort.runner import OrtRunner
from ttt_runtime.backends.tensorrt.api import load_backend
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.decode.engine import SpeechEngine

CACHE_ROWS = 160


@dataclass
class Machine:
    """A bundle with engines, and the fake GPU that runs them."""

    bundle: Bundle
    driver: FakeDriver
    trt: GpuModule
    engine: str

    def runner(self, device: str | None = None, **more: Any) -> DeviceRunner:
        options = {
            "backend": self.trt.backend(self.engine),
            "probe": lambda: ORIN,
            "open_stream": lambda index: CudaStream(index, self.driver),
        }
        return engine_runner(self.bundle, device or self.engine, **{**options, **more})


Build = Callable[..., Machine]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory, golden_checkpoints: list[Path]) -> Build:
    """Return a function that exports once a precision and puts fake engines beside the graphs."""
    exported: dict[tuple[str, str, Path, str], Path] = {}

    def make(
        engine: str = "tensorrt",
        precision: str = "fp32",
        checkpoint: Path | None = None,
        form: str = "standard",
    ) -> Machine:
        source = checkpoint or golden_checkpoints[0]
        key = (engine, precision, source, form)
        if key not in exported:
            path = tmp_path_factory.mktemp("engines") / "bundle"
            options = ExportOptions(
                precision=precision, engine=engine, cache_rows=CACHE_ROWS, engines=False, form=form
            )
            export_checkpoint(source, path, options=options)
            exported[key] = path
        path = exported[key]
        graphs = Bundle.open(path).config.graphs
        driver = FakeDriver()
        version = "10.15.1.29" if form == "standard" else "10.3.0.30"
        version = version if engine == "tensorrt" else "1.7.1"
        trt = GpuModule({e.file: e.spec for e in graphs.values()}, path, driver, version=version)
        backend = trt.backend(engine)
        built = build_engines(path, backend=backend, probe=lambda: ORIN)
        trt.profiles = {item.graph: item.stamp.identity.profiles for item in built}
        return Machine(Bundle.open(path), driver, trt, engine)

    return make


def test_golden_generation(generation_case: Any, build: Build) -> None:
    machine = build(checkpoint=generation_case.checkpoint)
    speech = SpeechEngine(machine.runner(), machine.bundle.config.layout)
    prompt = generation_case["prompt_ids"].tolist()
    new_ids = speech.generate_ids(prompt, GenerationConfig.from_dict(generation_case.args))
    assert prompt + new_ids == generation_case["output_ids"].tolist()


@pytest.mark.parametrize("device", ["tensorrt", "tensorrt+graphs"])
def test_basic_operators_in_tensorrt_of_jetpack_6(
    generation_case: Any, build: Build, device: str
) -> None:
    """Nothing promises that such an engine may write where it reads: two buffers take turns."""
    machine = build(checkpoint=generation_case.checkpoint, form="basic")
    assert machine.trt.__version__ == "10.3.0.30"
    runner = machine.runner(device)
    cache = runner.caches.sequence
    assert cache.addresses["past_k.0"] != cache.addresses["present_k.0"]
    speech = SpeechEngine(runner, machine.bundle.config.layout)
    prompt = generation_case["prompt_ids"].tolist()
    new_ids = speech.generate_ids(prompt, GenerationConfig.from_dict(generation_case.args))
    assert prompt + new_ids == generation_case["output_ids"].tolist()


@pytest.mark.parametrize("device", ["tensorrt", "tensorrt+graphs"])
def test_half_precision_and_captured_graphs_give_the_ids_of_the_cpu(
    build: Build, device: str
) -> None:
    machine = build("tensorrt", "fp16")
    layout, runner = machine.bundle.config.layout, machine.runner(device)
    host_bundle = Bundle(machine.bundle.path, replace(machine.bundle.config, engine="cpu"))
    host = OrtRunner.from_bundle(host_bundle, threads=1)
    engines = [SpeechEngine(one, layout) for one in (runner, host)]
    for number in range(3):
        config = replace(CONFIGS[number], max_gen_len=30)
        prompt = random_prompt(layout, np.random.default_rng([5, number]))
        got, want = (engine.generate_ids(prompt, config) for engine in engines)
        assert got == want
    assert (machine.driver.launched > 20) is device.endswith("graphs")


def test_text_steps_set_their_context_once(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some 150 calls a step otherwise, for addresses that do not change."""
    runner = build().runner()
    calls: list[str] = []
    real = FakeContext.set_tensor_address
    monkeypatch.setattr(
        FakeContext,
        "set_tensor_address",
        lambda context, name, address: (calls.append(name), real(context, name, address))[1],
    )
    runner.forward([1, 2, 3], 0)
    first = len(calls)
    for position in range(3, 9):
        runner.forward([4], position)
    assert len(calls) == 2 * first


def test_prefill_in_chunks_without_a_head_between(build: Build) -> None:
    """The host rewrites its staging memory while the stream may still be reading it."""
    machine = build()
    runner = machine.runner()
    host = OrtRunner.from_bundle(
        Bundle(machine.bundle.path, replace(machine.bundle.config, engine="cpu")), threads=1
    )
    for one in (runner, host):
        for start in range(0, 40, 10):  # the same shape each time: the same staging memory
            last = one.forward(list(range(start, start + 10)), start)
        if one is runner:
            got = np.array(last)
    np.testing.assert_array_equal(got, last)


def test_another_thread_may_go_on(build: Build) -> None:
    machine = build()
    runner = machine.runner()
    hidden = runner.forward([1, 2, 3], 0)
    best: list[Any] = []
    thread = threading.Thread(target=lambda: best.append(runner.speech_best(hidden)))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(best[0].ids, runner.speech_best(hidden).ids)


def test_more_rows_than_a_head_takes_go_in_pieces(build: Build) -> None:
    runner = build().runner()
    hidden = runner.forward(list(range(1, 141)), 0)
    pieces = runner.text_best(hidden, forbid_end=True)
    again = runner.forward(list(range(1, 141)), 0)
    few = [runner.text_best(again[i : i + 20], forbid_end=True) for i in range(0, 140, 20)]
    np.testing.assert_array_equal(pieces.ids, np.concatenate([best.ids for best in few]))


def test_memory_is_given_back(build: Build) -> None:
    machine = build()
    before = machine.driver.left
    runner = machine.runner()
    runner.forward([1, 2], 0)
    assert machine.driver.left < before
    del runner
    gc.collect()
    assert machine.driver.left == before


def test_too_little_memory_is_one_line(build: Build) -> None:
    machine = build()
    machine.driver.left = 10_000
    with pytest.raises(DeviceError, match=r"no \d+ bytes left .*CUDA_ERROR_OUT_OF_MEMORY") as told:
        machine.runner()
    assert "\n" not in str(told.value)


def test_rtx_keeps_its_kernels(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    class Config:
        graphs = None

        def set_execution_context_allocation_strategy(self, strategy: str) -> None:
            self.strategy = strategy

        def create_runtime_cache(self) -> Any:
            return type("Cache", (), {"serialize": lambda self: b"kernels"})()

        def set_runtime_cache(self, cache: Any) -> None:
            self.cache = cache

    monkeypatch.setattr(FakeEngine, "create_runtime_config", lambda self: Config(), raising=False)
    machine = build("rtx", "fp16")
    runner = machine.runner("rtx+graphs")
    runner.forward([1], 0)
    assert machine.driver.launched == 0  # TensorRT-RTX captures by itself
    del runner
    gc.collect()
    kept = sorted(p.name for p in (tmp_path / "ttt-edge" / "kernels").iterdir())
    assert len(kept) == 3
    assert all(name.endswith("-sm_87.kernels") for name in kept)


def test_what_does_not_fit_is_refused_in_one_line(build: Build, tmp_path: Path) -> None:
    machine = build()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"probe": lambda: NO_GPU}, r"needs an NVIDIA GPU and its driver .*libcuda"),
        ({"device": "tensorrt:3"}, "GPU 3 was asked for, this machine has 1: 0 Orin"),
        (
            {"backend": replace(machine.trt.backend(), version="10.16.0")},
            r"no TensorRT engine of graph decoder fits: .* built with version 10.15.1.29",
        ),
        ({"backend": machine.trt.backend("rtx")}, "is for tensorrt, not rtx"),
    ]
    for options, line in cases:
        with pytest.raises(DeviceError, match=line) as caught:
            machine.runner(**options)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="built for 160 rows"):
        machine.runner(capacity=100)
    machine.trt.refuse_engine = "serialization mismatch"
    with pytest.raises(DeviceError, match=r"refuses engine decoder-.*serialization mismatch"):
        machine.runner()


def test_an_engine_that_is_not_its_spec_is_refused(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = build()
    for method, answer, line in (
        ("get_tensor_location", "host", "wants embeds on the host"),
        ("get_aliased_input_tensor", "past_v.0", r"writes present_k\.0 over past_v\.0"),
        ("get_tensor_mode", "out", "has embeds as float32"),
        ("get_tensor_name", "other", "differs from its spec in"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(FakeEngine, method, lambda *_, answer=answer: answer)
            with pytest.raises(BundleError, match=line):
                machine.runner()


def test_a_bundle_of_the_cpu_is_no_bundle_for_engines(exported: Any, tied: Path) -> None:
    bundle = Bundle.open(exported(tied).path)
    with pytest.raises(DeviceError, match=r"made for cpu, device 'rtx' .*-e rtx.*--device cpu"):
        load_runner(bundle, "rtx")


def test_a_failing_run_tells_the_librarys_own_words(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = build()
    backend = machine.trt.backend()
    runner = machine.runner(backend=backend)
    monkeypatch.setattr(FakeContext, "execute_async_v3", lambda *_: False)
    with pytest.raises(TttError, match="TensorRT failed in graph decoder: a run was refused"):
        runner.forward([1], 0)


def test_the_driver_is_reached_through_cuda_bindings() -> None:
    """Without a driver the package's own loader error becomes one line."""
    if importlib.util.find_spec("cuda.bindings") is None:
        pytest.skip("cuda-bindings is not installed")
    driver = import_driver()
    missing = {n for n in dir(FakeDriver) if n.startswith(("cu", "CU"))} - set(dir(driver))
    assert missing == set()
    assert int(driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY) == CUresult.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(DeviceError, match="GPU 99 cannot be used") as caught:
        CudaStream(99)
    assert "\n" not in str(caught.value)


def test_a_missing_package_says_what_to_install() -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    with pytest.raises(DeviceError, match=r"cuda-bindings .*pip install 'cuda-bindings"):
        import_driver(missing)


@pytest.mark.tensorrt
def test_the_fakes_have_nothing_that_the_real_classes_lack() -> None:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt-rtx-cu13 is not installed")
    trt = load_backend("rtx").trt
    own = {"tensors", "contexts", "compute", "dims", "driver", "spec"}
    for fake, real in ((FakeEngine, trt.ICudaEngine), (FakeContext, trt.IExecutionContext)):
        used = {name for name in vars(fake) if not name.startswith("_")} - own
        assert used - set(dir(real)) == set()
    assert {"num_io_tensors", "num_optimization_profiles"} <= set(dir(trt.ICudaEngine))
    config = {"create_runtime_cache", "set_runtime_cache", "cuda_graph_strategy"}
    config.add("set_execution_context_allocation_strategy")
    assert config <= set(dir(trt.IRuntimeConfig))
    assert hasattr(trt.ExecutionContextAllocationStrategy, "USER_MANAGED")
    assert hasattr(trt.CudaGraphStrategy, "WHOLE_GRAPH_CAPTURE")
    assert hasattr(trt.TensorIOMode, "INPUT")
    assert hasattr(trt.TensorLocation, "DEVICE")
