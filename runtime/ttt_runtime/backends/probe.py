"""Which engines load on this machine, tried rather than believed, and why the others do not."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ttt_ref.errors import DeviceError
from ttt_ref.package import install_command
from ttt_runtime.backends.gpu.cuda import INSTALL
from ttt_runtime.backends.ort.provider import preload_cuda, quiet_log
from ttt_runtime.backends.tensorrt.api import FLAVOURS, load_backend
from ttt_runtime.backends.tensorrt.stamp import AHEAD_OF_TIME_MINIMUM
from ttt_runtime.machine.device import DEVICES, PROVIDERS
from ttt_runtime.machine.gpu import GpuReport, probe_gpus
from ttt_runtime.machine.versions import cuda_mismatch, library_cuda

# y = x + x: the smallest graph that makes a provider load its libraries.
_TINY_GRAPH: Final = (
    b'\x08\x07:5\n\x0e\n\x01x\n\x01x\x12\x01y"\x03Add\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08'
    b"\x01\x12\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n"
    b"\x00\x10\r"
)
ENGINES: Final = DEVICES
_CUDA_LIBRARY: Final = "libonnxruntime_providers_cuda.so"  # in onnxruntime's folder `capi`


@dataclass(frozen=True)
class EngineStatus:
    """One engine on this machine.

    Attributes:
        name: cpu, cuda, tensorrt or rtx.
        loads: graphs of this engine can be run here.
        builds: engine files can be built here (tensorrt and rtx).
        version: of the library, None if there is none.
        problem: why it does not load, in a few words.
        fix: what to do about it.
    """

    name: str
    loads: bool
    builds: bool = False
    version: str | None = None
    problem: str | None = None
    fix: str | None = None

    def line(self) -> str | None:
        """Return problem and way out on one line, or None for an engine that loads."""
        if self.loads:
            return None
        return "; ".join(part for part in (self.problem, self.fix) if part)


def import_onnxruntime() -> Any:
    """Import onnxruntime, whatever its absence looks like."""
    import onnxruntime

    return onnxruntime


def check_engine(
    name: str,
    *,
    gpus: GpuReport | None = None,
    load_ort: Callable[[], Any] = import_onnxruntime,
    load_api: Callable[[str], Any] = load_backend,
    has_bindings: Callable[[], bool] | None = None,
) -> EngineStatus:
    """Try one engine.

    Args:
        name: cpu, cuda, tensorrt or rtx.
        gpus: GPUs of this machine; None asks the driver where it matters.
        load_ort: imports onnxruntime.
        load_api: imports a TensorRT API.
        has_bindings: tells whether cuda-bindings is installed; None looks.

    Raises:
        DeviceError: no engine of this name exists.
    """
    if name not in ENGINES:
        raise DeviceError(f"unknown engine {name!r}; known: {', '.join(ENGINES)}")
    if name in FLAVOURS:
        look = has_bindings or has_cuda_bindings
        return _check_tensorrt(name, gpus or probe_gpus(), load_api, look)
    return _check_onnxruntime(name, gpus, load_ort)


def check_engines(gpus: GpuReport) -> list[EngineStatus]:
    """Try all engines."""
    return [check_engine(name, gpus=gpus) for name in ENGINES]


def explain_missing(name: str) -> str | None:
    """Return why an engine does not load here and what to do, on one line; None if it loads."""
    line = check_engine(name).line()
    return None if line is None else f"engine {name} cannot run on this machine: {line}"


def _check_onnxruntime(
    name: str, gpus: GpuReport | None, load_ort: Callable[[], Any]
) -> EngineStatus:
    provider, extra = PROVIDERS[name]
    install = install_command(extra)
    try:
        ort = load_ort()
        version = str(ort.__version__)
    except ModuleNotFoundError:
        return EngineStatus(name, False, problem="onnxruntime is not installed", fix=install)
    except Exception as error:  # a wheel of another processor or glibc fails in many ways
        reason = " ".join(str(error).split())[:200]
        return EngineStatus(name, False, problem=f"onnxruntime fails: {reason}", fix=install)
    if provider not in ort.get_available_providers():
        problem = f"this onnxruntime {version} was built without {provider}"
        other = "onnxruntime" if extra == "gpu" else "onnxruntime-gpu"
        fix = f"pip uninstall {other}, then {install}"
        return EngineStatus(name, False, version=version, problem=problem, fix=fix)
    if name != "cpu":
        gpus = gpus or probe_gpus()
        if not gpus.gpus:
            fix = "install the NVIDIA driver"
            return EngineStatus(name, False, version=version, problem=gpus.problem, fix=fix)
        if (mismatch := cuda_mismatch(library_cuda(name), gpus)) is not None:
            return EngineStatus(name, False, version=version, problem=mismatch)
        preload_cuda(ort)
    with quiet_log(ort):
        stopped = _start(ort, provider)
    if stopped is None:
        return EngineStatus(name, True, version=version)
    fix = "check that the CUDA and cuDNN of this onnxruntime are installed"
    return EngineStatus(name, False, version=version, problem=stopped, fix=fix)


def _start(ort: Any, provider: str) -> str | None:
    """Start a session; returns why it did not start on this provider, None if it did."""
    options = ort.SessionOptions()
    with contextlib.suppress(AttributeError):
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(_TINY_GRAPH, sess_options=options, providers=[provider])
        active = session.get_providers()[0]
    except Exception as error:  # onnxruntime has no base class for its errors
        return f"{provider} does not start: {' '.join(str(error).split())[:200]}"
    if active != provider:
        why = _missing_library(ort) or f"onnxruntime fell back to {active}"
        return f"{provider} does not start: {why}"
    return None


def _missing_library(ort: Any) -> str | None:
    """Return the system's word on the CUDA provider's library; None if it can be loaded."""
    place = Path(getattr(ort, "__file__", None) or ".").parent / "capi" / _CUDA_LIBRARY
    if not place.is_file():
        return None
    try:
        ctypes.CDLL(str(place))
    except OSError as error:
        return " ".join(str(error).split())[:200]
    return None


def _check_tensorrt(
    name: str, gpus: GpuReport, load_api: Callable[[str], Any], has_bindings: Callable[[], bool]
) -> EngineStatus:
    try:
        version = str(load_api(name).version)
    except DeviceError as error:
        problem, _, fix = str(error).partition("; ")
        if not fix:
            problem, _, fix = str(error).partition("; run: ")
        return EngineStatus(name, False, problem=problem, fix=fix or None)
    can_build = not FLAVOURS[name].needs_gpu or bool(gpus.gpus)
    if not gpus.gpus:
        fix = "install the NVIDIA driver"
        return EngineStatus(name, False, can_build, version, gpus.problem, fix)
    gpu = gpus.gpus[0]
    too_old = gpu.compute_capability and gpu.compute_capability < AHEAD_OF_TIME_MINIMUM
    if name == "rtx" and too_old:
        problem = f"{gpu.name} is {gpu.architecture}, engines built ahead of time need sm_86"
        fix = f"ttt-engines BUNDLE --architecture {gpu.architecture}"
        return EngineStatus(name, False, can_build, version, problem, fix)
    if (mismatch := cuda_mismatch(library_cuda(name), gpus)) is not None:
        return EngineStatus(name, False, can_build, version, mismatch)
    if not has_bindings():
        problem = "the package cuda-bindings, which reaches the GPU, is not installed"
        return EngineStatus(name, False, can_build, version, problem, INSTALL)
    return EngineStatus(name, True, can_build, version)


def has_cuda_bindings() -> bool:
    """Tell whether the bindings of the CUDA driver are installed."""
    try:
        return importlib.util.find_spec("cuda.bindings.driver") is not None
    except ModuleNotFoundError:  # not even the package around them
        return False
