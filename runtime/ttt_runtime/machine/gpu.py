"""NVIDIA GPUs without any package: the driver's own libraries through ctypes.

NVML answers on desktops, servers and newer Jetsons; the CUDA driver library answers wherever a
GPU can compute at all; nvidia-smi is asked last, for machines whose libraries lie off the path.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

OpenLibrary = Callable[[str], Any]
RunProgram = Callable[[list[str]], str | None]

NVML: Final = "libnvidia-ml.so.1"
CUDA: Final = "libcuda.so.1"
_CU_MAJOR, _CU_MINOR = 75, 76  # attributes of cuDeviceGetAttribute: compute capability
_TEXT_BYTES: Final = 96
_MIB: Final = 2**20


@dataclass(frozen=True)
class Gpu:
    """One GPU; what could not be found out is None."""

    index: int
    name: str
    compute_capability: tuple[int, int] | None
    memory_total_bytes: int | None = None
    memory_free_bytes: int | None = None

    @property
    def architecture(self) -> str:
        """`sm_87` and the like; `sm_unknown` if the driver did not say."""
        if self.compute_capability is None:
            return "sm_unknown"
        return "sm_{}{}".format(*self.compute_capability)


@dataclass(frozen=True)
class GpuReport:
    """The GPUs of this machine. Without any, `problem` says why in a few words."""

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    cuda: str | None = None
    source: str | None = None
    problem: str | None = None


class _Failed(Exception):
    """A driver library answered with an error; the text says which."""


def probe_gpus(
    open_library: OpenLibrary = ctypes.CDLL, run_program: RunProgram | None = None
) -> GpuReport:
    """Ask the driver which GPUs there are. Never raises."""
    reasons = []
    for library, ask in ((NVML, _ask_nvml), (CUDA, _ask_cuda)):
        try:
            handle = open_library(library)
        except OSError:
            reasons.append(f"{library} is not there")
            continue
        try:
            report = ask(handle)
        except (_Failed, AttributeError) as error:
            reasons.append(f"{library}: {error}")
            continue
        if report.gpus:
            return report
        reasons.append(f"{library} sees no GPU")
    smi = _ask_smi(run_program or _run)
    if smi is not None and smi.gpus:
        return smi
    return GpuReport(problem=f"no NVIDIA GPU or driver ({'; '.join(reasons)})")


def _checked(name: str, code: int) -> None:
    if code != 0:
        raise _Failed(f"{name} failed with code {code}")


def _text(function: Any, *arguments: Any) -> str | None:
    buffer = ctypes.create_string_buffer(_TEXT_BYTES)
    if function(*arguments, buffer, ctypes.c_uint(_TEXT_BYTES)) != 0:
        return None
    return buffer.value.decode("utf-8", "replace")


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


class _NvmlMemory(ctypes.Structure):
    _fields_ = [
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    ]


def _ask_nvml(nvml: Any) -> GpuReport:
    _checked("nvmlInit", nvml.nvmlInit_v2())
    try:
        version = ctypes.c_int()
        known = nvml.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(version)) == 0
        count = ctypes.c_uint()
        _checked("nvmlDeviceGetCount", nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)))
        return GpuReport(
            gpus=tuple(_nvml_gpu(nvml, i) for i in range(count.value)),
            driver=_text(nvml.nvmlSystemGetDriverVersion),
            cuda=_cuda_version(version.value) if known else None,
            source="nvml",
        )
    finally:
        nvml.nvmlShutdown()


def _nvml_gpu(nvml: Any, index: int) -> Gpu:
    device = ctypes.c_void_p()
    found = nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device))
    _checked("nvmlDeviceGetHandleByIndex", found)
    major, minor, memory = ctypes.c_int(), ctypes.c_int(), _NvmlMemory()
    known = nvml.nvmlDeviceGetCudaComputeCapability(
        device, ctypes.byref(major), ctypes.byref(minor)
    )
    # Jetsons share their memory with the CPU and answer "not supported" here.
    sized = nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)) == 0
    return Gpu(
        index,
        _text(nvml.nvmlDeviceGetName, device) or "NVIDIA GPU",
        (major.value, minor.value) if known == 0 else None,
        memory.total if sized else None,
        memory.free if sized else None,
    )


def _ask_cuda(cuda: Any) -> GpuReport:
    _checked("cuInit", cuda.cuInit(0))
    version, count = ctypes.c_int(), ctypes.c_int()
    known = cuda.cuDriverGetVersion(ctypes.byref(version)) == 0
    _checked("cuDeviceGetCount", cuda.cuDeviceGetCount(ctypes.byref(count)))
    return GpuReport(
        gpus=tuple(_cuda_gpu(cuda, i) for i in range(count.value)),
        cuda=_cuda_version(version.value) if known else None,
        source="cuda",
    )


def _cuda_gpu(cuda: Any, index: int) -> Gpu:
    device, total = ctypes.c_int(), ctypes.c_size_t()
    _checked("cuDeviceGet", cuda.cuDeviceGet(ctypes.byref(device), index))
    parts = []
    for attribute in (_CU_MAJOR, _CU_MINOR):
        value = ctypes.c_int()
        code = cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        _checked("cuDeviceGetAttribute", code)
        parts.append(value.value)
    buffer = ctypes.create_string_buffer(_TEXT_BYTES)
    named = cuda.cuDeviceGetName(buffer, _TEXT_BYTES, device) == 0
    sized = cuda.cuDeviceTotalMem_v2(ctypes.byref(total), device) == 0
    return Gpu(
        index,
        buffer.value.decode("utf-8", "replace") if named else "NVIDIA GPU",
        (parts[0], parts[1]),
        total.value if sized else None,
    )


def _run(command: list[str]) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _ask_smi(run_program: RunProgram) -> GpuReport | None:
    fields = "index,name,compute_cap,memory.total,memory.free,driver_version"
    out = run_program(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"])
    if not out:
        return None
    gpus, driver = [], None
    for line in out.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) != 6 or not parts[0].isdigit():
            continue
        major, _, minor = parts[2].partition(".")
        known = major.isdigit() and minor.isdigit()
        total, free = (int(p) * _MIB if p.isdigit() else None for p in parts[3:5])
        capability = (int(major), int(minor)) if known else None
        gpus.append(Gpu(int(parts[0]), parts[1], capability, total, free))
        driver = parts[5]
    return GpuReport(gpus=tuple(gpus), driver=driver, source="nvidia-smi")
