"""Device names, memory blocks, bfloat16, hidden rows, placement: the parts of the GPU runner."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.runtime.bundles import MODEL
from ttt_ref.errors import BundleError, DeviceError, TttError
from ttt_runtime.backends.gpu.cache import DeviceCache
from ttt_runtime.backends.gpu.memory import ALIGNMENT, Packed, from_bfloat16, to_bfloat16
from ttt_runtime.backends.gpu.ort_graph import CAPTURED_ROWS, OrtGraph, OrtMemory
from ttt_runtime.backends.gpu.rows import DeviceRows, HiddenBlock
from ttt_runtime.backends.ort.provider import check_provider_assignment, provider_entry
from ttt_runtime.backends.ort.session import GraphSession, SessionSettings
from ttt_runtime.bundle.graph_spec import GraphSpec, TensorSpec, decoder_spec
from ttt_runtime.codec import factory
from ttt_runtime.machine.device import Device
from ttt_runtime.machine.gpu import Gpu, GpuReport
from ttt_runtime.profiler import machine

MEMORY = OrtMemory("cpu")


def test_device_names() -> None:
    assert Device.parse("cpu") == Device("cpu")
    assert Device.parse("cuda:1+graphs") == Device("cuda", 1, True)
    assert Device.parse("rtx:0+graphs/cpu") == Device("rtx", 0, True, "cpu")
    assert Device.parse("tensorrt") == Device("tensorrt")


@pytest.mark.parametrize(
    "text", ["", "gpu", "cuda:", "cuda:-1", "cpu:0", "cpu+graphs", "rtx+fast", "rtx/rtx", "CUDA"]
)
def test_names_of_no_device(text: str) -> None:
    with pytest.raises(DeviceError) as caught:
        Device.parse(text)
    assert "\n" not in str(caught.value)
    with pytest.raises(DeviceError):
        SessionSettings(text)


def test_where_the_codec_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for loads, engines_codec in ((True, "cuda:1"), (False, "cpu")):
        monkeypatch.setattr(
            "ttt_runtime.backends.probe.check_engine",
            lambda name, loads=loads: SimpleNamespace(loads=loads),
        )
        assert factory.codec_device("rtx:1+graphs") == engines_codec
        assert factory.codec_device("rtx/cpu") == "cpu"
        assert factory.codec_device("cuda:1+graphs") == "cuda:1"  # never with graphs: shapes vary
        assert factory.codec_device("cuda/cpu") == "cpu"
        assert factory.codec_device("cpu") == "cpu"


def test_engines_are_no_device_of_a_session(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="onnxruntime runs this graph on cpu or cuda, rtx runs"):
        GraphSession(tmp_path / "x.onnx", GraphSpec("x", (), ()), SessionSettings("rtx"))


def test_bfloat16_rounds_to_nearest_even() -> None:
    exact = np.array([0.0, 1.0, -2.5, 3.0e38, 1e-30], np.float32)
    step = np.float32(2.0**-7)
    values = np.array([1.0 + step / 2, 1.0 + 3 * step / 2, 1.0 + step * 0.51], np.float32)
    out = np.empty(3, np.uint16)
    to_bfloat16(values, out)
    np.testing.assert_array_equal(from_bfloat16(out), np.float32([1, 1 + 2 * step, 1 + step]))
    out = np.empty(5, np.uint16)
    to_bfloat16(exact, out)
    np.testing.assert_allclose(from_bfloat16(out), exact, rtol=2**-8)


def test_packed_tensors_do_not_overlap() -> None:
    tensors = [TensorSpec("a", "bool", ("N", 3)), TensorSpec("b", "int64", (1,))]
    packed = Packed(MEMORY, tensors, {"N": 2})
    packed.arrays["a"][...] = True
    packed.arrays["b"][...] = -1
    assert packed.addresses["b"] - packed.addresses["a"] == ALIGNMENT
    assert packed.arrays["a"].shape == (2, 3)
    packed.block.upload()
    packed.arrays["b"][...] = 0
    packed.block.download()
    assert packed.arrays["b"].tolist() == [-1]


def test_hidden_rows_are_an_array_when_looked_at() -> None:
    block = HiddenBlock(MEMORY, 6, 4, "float16")
    values = np.arange(24, dtype=np.float16).reshape(6, 4)
    block.block.host[...] = values.view(np.uint8).reshape(-1)
    block.block.upload()
    block.block.host[...] = 0
    block.version += 1
    rows = DeviceRows(block, np.arange(5))
    assert rows.shape == (5, 4)
    assert isinstance(rows[-1:], DeviceRows)
    picked = rows[np.array([0, 3])]
    assert isinstance(picked, DeviceRows)
    np.testing.assert_array_equal(picked, values[[0, 3]])
    np.testing.assert_array_equal(rows[1:3][1], values[2])
    np.testing.assert_array_equal(picked - rows[:2], values[[0, 3]] - values[:2])
    np.testing.assert_array_equal(np.float32(2) * picked, 2 * values[[0, 3]])
    assert np.asarray(picked, dtype=np.float32).dtype == np.float32
    block.version += 1
    with pytest.raises(TttError, match="after the next forward"):
        picked.copy()


def test_bfloat16_hidden_rows() -> None:
    block = HiddenBlock(MEMORY, 2, 4, "bfloat16")
    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    to_bfloat16(values, block.block.host.view(np.uint16).reshape(2, 4))
    block.block.upload()
    block.version += 1
    np.testing.assert_array_equal(np.asarray(DeviceRows(block, np.arange(2))), values)


def test_bfloat16_tensors_are_bound(tmp_path: Path) -> None:
    """numpy has no such type, so the binding is told onnx's number of it."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)],
        "widen",
        [info("x", TensorProto.BFLOAT16, ["N", 3])],
        [info("y", TensorProto.FLOAT, ["N", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "widen.onnx")
    x, y = TensorSpec("x", "bfloat16", ("N", 3)), TensorSpec("y", "float32", ("N", 3))
    spec = GraphSpec("widen", (x,), (y,))
    session = GraphSession(tmp_path / "widen.onnx", spec, SessionSettings(threads=1))
    given, made = Packed(MEMORY, [x], {"N": 2}), Packed(MEMORY, [y], {"N": 2})
    values = np.float32([[1, 2, 3], [-4, 0.5, 100]])
    to_bfloat16(values, given.arrays["x"])
    given.block.upload()
    OrtGraph(session, MEMORY).bind({"N": 2}, {**given.addresses, **made.addresses})()
    made.block.download()
    np.testing.assert_array_equal(made.arrays["y"], values)


def test_small_forwards_are_captured_and_large_ones_are_not(tmp_path: Path) -> None:
    graph = OrtGraph.__new__(OrtGraph)
    graph.__init__(SimpleNamespace(), MEMORY, captures=True)  # type: ignore[misc, arg-type]
    chosen = [
        graph.run_options(rows).get_run_config_entry("gpu_graph_id")
        for rows in (1, 27, CAPTURED_ROWS + 1, 1)
    ]
    assert chosen == ["1", "2", "-1", "3"]
    assert OrtGraph(SimpleNamespace(), MEMORY).run_options(1) is None  # type: ignore[arg-type]


def test_caches_that_cannot_lie_on_a_device() -> None:
    with pytest.raises(BundleError, match="not contiguous"):
        DeviceCache(MEMORY, decoder_spec(MODEL, layout="heads"), 8)
    with pytest.raises(BundleError, match="no past_k"):
        DeviceCache(MEMORY, GraphSpec("x", (), ()), 8)
    cache = DeviceCache(MEMORY, decoder_spec(MODEL), 8)
    assert cache.addresses["past_v.1"] == cache.addresses["present_v.1"]
    assert len(set(cache.addresses.values())) == 2 * MODEL.num_hidden_layers


def session_with(*nodes: tuple[str, str]) -> Any:
    parts = [
        SimpleNamespace(ep_name=provider, get_nodes=lambda op=op: [SimpleNamespace(op_type=op)])
        for provider, op in nodes
    ]
    return SimpleNamespace(get_provider_graph_assignment_info=lambda: parts)


def test_work_left_on_the_cpu_is_refused() -> None:
    """onnxruntime writes it to its log and goes on, with the cache crossing the bus every run."""
    good = session_with(("CUDAExecutionProvider", "MatMul"), ("CPUExecutionProvider", "Concat"))
    check_provider_assignment(good, "decoder.onnx", Device("cuda"))
    check_provider_assignment(
        SimpleNamespace(), "decoder.onnx", Device("cuda")
    )  # an older onnxruntime
    bad = session_with(
        ("CPUExecutionProvider", "TensorScatter"), ("CPUExecutionProvider", "Attention")
    )
    with pytest.raises(DeviceError, match=r"cuda' cannot run Attention, TensorScatter") as caught:
        check_provider_assignment(bad, "decoder.onnx", Device("cuda"))
    assert "\n" not in str(caught.value)


def test_the_real_onnxruntime_tells_where_nodes_run(tmp_path: Path) -> None:
    """On the CPU provider all work is on the CPU, so a check for cuda must refuse it."""
    import onnxruntime

    from ttt_runtime.backends.ort.provider import RECORD_NODES

    node = helper.make_node("Softmax", ["x"], ["y"])
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xy"]
    graph = helper.make_graph([node], "g", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(RECORD_NODES, "1")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    with pytest.raises(DeviceError, match="cannot run Softmax"):
        check_provider_assignment(session, "g", Device("cuda"))


def test_options_of_the_cuda_provider() -> None:
    assert provider_entry("CPUExecutionProvider", Device("cpu")) == "CPUExecutionProvider"
    name, options = provider_entry("CUDAExecutionProvider", Device("cuda", 2, True))
    assert name == "CUDAExecutionProvider"
    assert options["device_id"] == "2"
    assert options["enable_cuda_graph"] == "1"
    assert options["use_tf32"] == "0"
    assert "enable_cuda_graph" not in provider_entry(name, Device("cuda"))[1]


def test_figures_name_the_gpu_they_were_taken_on(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = GpuReport(problem="no NVIDIA GPU or driver")
    monkeypatch.setattr(machine, "probe_gpus", lambda: nothing)
    assert not {"gpus", "driver"} & machine.describe_machine(1).keys()
    here = GpuReport(gpus=(Gpu(0, "Orin", (8, 7)),), driver="540.4", cuda="12.6")
    monkeypatch.setattr(machine, "probe_gpus", lambda: here)
    found = machine.describe_machine(1)
    assert found["gpus"] == ["Orin, sm_87"]
    assert found["driver"] == "540.4, CUDA 12.6"
