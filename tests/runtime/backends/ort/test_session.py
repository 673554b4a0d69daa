"""Sessions: real small graphs, wrong ones, and devices that are not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.runtime.processes import environment
from ttt_ref.errors import BundleError, ConfigError, DeviceError
from ttt_runtime.backends.ort.session import GraphSession, SessionSettings, check_device
from ttt_runtime.bundle.graph_spec import GraphSpec, TensorSpec
from ttt_runtime.machine.device import PROVIDERS

SPEC = GraphSpec(
    "double",
    (TensorSpec("x", "float32", ("N", 3)),),
    (TensorSpec("y", "float32", ("N", 3)), TensorSpec("z", "float32", ("N", 3))),
)
CPU = SessionSettings(threads=1)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    nodes = [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3]) for n in "xyz"]
    model = helper.make_model(
        helper.make_graph(nodes, "double", value[:1], value[1:]),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    onnx.save(model, tmp_path / "double.onnx")
    return tmp_path / "double.onnx"


def test_a_graph_runs(graph: Path) -> None:
    session = GraphSession(graph, SPEC, CPU)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    y, z = session.run({"x": x})
    np.testing.assert_array_equal(y, 2 * x)
    (only,) = session.run({"x": x}, ["z"])
    np.testing.assert_array_equal(only, z)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_thread_count_gives_the_same(graph: Path, threads: int) -> None:
    session = GraphSession(graph, SPEC, SessionSettings(threads=threads))
    assert session.run({"x": np.ones((1, 3), np.float32)})[0].tolist() == [[2, 2, 2]]


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        (GraphSpec("d", (TensorSpec("w", "float32", ("N", 3)),), SPEC.outputs), "input w, x"),
        (GraphSpec("d", SPEC.inputs, SPEC.outputs[:1]), "output z"),
        (GraphSpec("d", (TensorSpec("x", "float16", ("N", 3)),), SPEC.outputs), "float16"),
        (GraphSpec("d", (TensorSpec("x", "float32", ("N", 4)),), SPEC.outputs), "4"),
        (GraphSpec("d", (TensorSpec("x", "float32", ("N",)),), SPEC.outputs), "'N'"),
        (GraphSpec("d", SPEC.inputs, SPEC.outputs, {"session.evil": 1}), "session.evil"),
    ],
)
def test_a_graph_that_is_not_its_spec_is_refused(graph: Path, spec: GraphSpec, word: str) -> None:
    with pytest.raises(BundleError, match=word) as caught:
        GraphSession(graph, spec, CPU)
    assert "\n" not in str(caught.value)


def test_a_damaged_graph_is_one_line(graph: Path) -> None:
    graph.write_bytes(graph.read_bytes()[:20])
    with pytest.raises(BundleError, match=r"double.onnx cannot be loaded") as caught:
        GraphSession(graph, SPEC, CPU)
    assert "\n" not in str(caught.value)


def test_known_session_options_are_set(graph: Path) -> None:
    spec = GraphSpec("d", SPEC.inputs, SPEC.outputs, {"session.set_denormal_as_zero": "1"})
    session = GraphSession(graph, spec, CPU)
    options = session.ort_session.get_session_options()
    assert options.get_session_config_entry("session.set_denormal_as_zero") == "1"


def test_a_missing_device_is_an_error_not_a_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert check_device("cpu") == "CPUExecutionProvider"
    for device in PROVIDERS.keys() - {"cpu"}:
        with pytest.raises(DeviceError, match="was asked for"):
            check_device(device)
    with pytest.raises(DeviceError, match="unknown device 'tpu'"):
        check_device("tpu")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_onnxruntime_falling_back_is_an_error(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider that is listed but cannot start: onnxruntime only logs and uses the CPU."""
    import onnxruntime

    have = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: have)
    with pytest.raises(DeviceError, match="fell back to CPUExecutionProvider"):
        GraphSession(graph, SPEC, SessionSettings("cuda", 1))


def test_the_shared_pool_is_for_programs_and_has_one_size(graph: Path) -> None:
    """Until asked for, sessions have pools of their own; then none may differ in size."""
    program = f"""
import sys
from tests.runtime.backends.ort.test_session import SPEC
from pathlib import Path
from ttt_runtime.backends.ort.session import GraphSession, SessionSettings, share_thread_pool
path = Path({str(graph)!r})
GraphSession(path, SPEC, SessionSettings(threads=1))
share_thread_pool()
try:
    for threads in (1, 1, 2):
        GraphSession(path, SPEC, SessionSettings(threads=threads))
except Exception as error:
    print(threads, type(error).__name__)
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment()
    )
    assert result.stdout == "2 ConfigError\n", result.stderr


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="threads is 0"):
        SessionSettings(threads=0)
    assert SessionSettings().thread_count >= 1
