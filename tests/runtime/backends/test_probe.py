"""Engines are tried, and the reason why one does not load is reported with its way out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ttt_ref.errors import DeviceError
from ttt_runtime.backends.ort.session import check_device
from ttt_runtime.backends.probe import check_engine, explain_missing
from ttt_runtime.machine.device import PROVIDERS
from ttt_runtime.machine.gpu import Gpu, GpuReport
from ttt_runtime.machine.versions import cuda_mismatch, library_cuda, precision_mismatch

HERE = GpuReport(gpus=(Gpu(0, "RTX 4090", (8, 9)),))
TURING = GpuReport(gpus=(Gpu(0, "RTX 2080", (7, 5)),))
NOWHERE = GpuReport(problem="no NVIDIA GPU or driver (libcuda.so.1 is not there)")


def ort(provider: str, active: str | None = None, error: str = "") -> Any:
    class Session:
        def __init__(self, model: bytes, sess_options: Any, providers: list[str]) -> None:
            if error:
                raise RuntimeError(error)

        def get_providers(self) -> list[str]:
            return [active or provider, "CPUExecutionProvider"]

    return SimpleNamespace(
        __version__="1.31.1",
        SessionOptions=SimpleNamespace,
        InferenceSession=Session,
        get_available_providers=lambda: [provider, "CPUExecutionProvider"],
    )


def test_the_cpu_engine_really_runs_a_graph() -> None:
    status = check_engine("cpu")
    assert status.loads
    assert status.version is not None
    assert status.line() is None
    assert explain_missing("cpu") is None


def test_a_missing_onnxruntime_says_what_to_install() -> None:
    def missing() -> Any:
        raise ModuleNotFoundError("onnxruntime")

    line = check_engine("cpu", load_ort=missing).line()
    assert line == "onnxruntime is not installed; pip install '.[cpu]'"


def test_an_onnxruntime_of_another_machine_says_its_error() -> None:
    def broken() -> Any:
        raise ImportError("GLIBC_2.38 not\n found")

    assert "GLIBC_2.38 not found" in str(check_engine("cpu", load_ort=broken).line())


def test_cuda_needs_provider_gpu_and_libraries() -> None:
    cuda = PROVIDERS["cuda"][0]
    good = check_engine("cuda", gpus=HERE, load_ort=lambda: ort(cuda))
    assert good.loads
    other = check_engine("cuda", gpus=HERE, load_ort=lambda: ort("CPUExecutionProvider"))
    assert "built without CUDAExecutionProvider" in str(other.line())
    assert "'.[gpu]'" in str(other.line())
    no_gpu = check_engine("cuda", gpus=NOWHERE, load_ort=lambda: ort(cuda))
    assert "libcuda.so.1 is not there" in str(no_gpu.line())
    silent = check_engine(
        "cuda", gpus=HERE, load_ort=lambda: ort(cuda, active="CPUExecutionProvider")
    )
    assert "fell back to CPUExecutionProvider" in str(silent.line())
    no_cudnn = check_engine("cuda", gpus=HERE, load_ort=lambda: ort(cuda, error="libcudnn.so.9"))
    assert "libcudnn.so.9" in str(no_cudnn.line())
    for status in (other, no_gpu, silent, no_cudnn):
        assert not status.loads
        assert "\n" not in str(status.line())


def test_rtx_builds_without_a_gpu_and_tensorrt_does_not() -> None:
    def api(name: str) -> Any:
        return SimpleNamespace(version="1.7.1" if name == "rtx" else "10.15.1")

    for name, builds in (("rtx", True), ("tensorrt", False)):
        status = check_engine(name, gpus=NOWHERE, load_api=api)
        assert (status.loads, status.builds) == (False, builds)
        assert "libcuda" in str(status.line())
        assert check_engine(name, gpus=HERE, load_api=api, has_bindings=lambda: True).loads
    old = check_engine("rtx", gpus=TURING, load_api=api)
    assert not old.loads
    assert "--architecture sm_75" in str(old.line())
    assert check_engine("tensorrt", gpus=TURING, load_api=api, has_bindings=lambda: True).loads


def test_engines_need_the_bindings_of_the_driver() -> None:
    """The library loads without them, but nothing could give it memory."""
    api = lambda name: SimpleNamespace(version="1.7.1")  # noqa: E731
    status = check_engine("rtx", gpus=HERE, load_api=api, has_bindings=lambda: False)
    assert (status.loads, status.builds) == (False, True)
    assert "pip install 'cuda-bindings" in str(status.line())


def test_a_library_of_a_newer_cuda_than_the_drivers() -> None:
    old = GpuReport(gpus=HERE.gpus, driver="540.4", cuda="12.6")
    line = cuda_mismatch("13.0", old)
    assert line is not None
    assert "built for CUDA 13.0, driver 540.4 offers CUDA 12.6" in line
    for built_for, cuda in (("12.8", "12.6"), ("12.8", "13.0"), (None, "12.6"), ("13", None)):
        assert cuda_mismatch(built_for, GpuReport(gpus=HERE.gpus, cuda=cuda)) is None


def test_libraries_tell_their_cuda() -> None:
    names = ["numpy", "tensorrt_rtx_cu13", "tensorrt-cu12-libs", "tensorrt_cu12", "onnxruntime"]
    assert library_cuda("rtx", lambda: names) == "13"
    assert library_cuda("tensorrt", lambda: names) == "12"
    assert library_cuda("tensorrt", list) is None
    assert library_cuda("cpu", lambda: names) is None
    info = SimpleNamespace(cuda_version="13.0")
    assert library_cuda("cuda", import_module=lambda name: info) == "13.0"
    assert library_cuda("cuda", import_module=lambda name: SimpleNamespace()) is None


def test_precisions_that_a_gpu_lacks() -> None:
    assert precision_mismatch("bf16", TURING.gpus[0]) == (
        "bf16 needs sm_80 or later, RTX 2080 is sm_75; export with -p fp16"
    )
    for precision in ("fp16", "fp32", "int4"):
        assert precision_mismatch(precision, TURING.gpus[0]) is None
    assert precision_mismatch("bf16", Gpu(0, "?", None)) is None


def test_the_missing_library_is_named(tmp_path: Path) -> None:
    """onnxruntime itself only says that it fell back; the system's loader knows which one."""
    cuda = PROVIDERS["cuda"][0]
    module = ort(cuda, active="CPUExecutionProvider")
    module.__file__ = str(tmp_path / "__init__.py")
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").write_bytes(b"no library")
    line = str(check_engine("cuda", gpus=HERE, load_ort=lambda: module).line())
    assert "libonnxruntime_providers_cuda.so" in line
    assert "\n" not in line


def test_a_missing_api_keeps_its_own_advice() -> None:
    def missing(name: str) -> Any:
        raise DeviceError("TensorRT is not installed; run: pip install 'ttt-edge[tensorrt]'")

    status = check_engine("tensorrt", gpus=HERE, load_api=missing)
    assert status.problem == "TensorRT is not installed"
    assert status.line() == "TensorRT is not installed; run: pip install 'ttt-edge[tensorrt]'"


def test_unknown_engines_are_refused() -> None:
    with pytest.raises(DeviceError, match="unknown engine 'npu'; known: cpu, cuda"):
        check_engine("npu")


def test_the_runtime_refuses_a_device_in_the_doctors_words() -> None:
    missing = [name for name in PROVIDERS if explain_missing(name) is not None]
    for name in missing:
        reason = explain_missing(name)
        with pytest.raises(DeviceError) as caught:
            check_device(name)
        assert str(reason) in str(caught.value)
        assert "\n" not in str(caught.value)
