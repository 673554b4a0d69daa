"""Asking the driver for GPUs, with drivers of our own making."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ttt_runtime.machine.gpu import CUDA, NVML, probe_gpus

GIB = 2**30


def put(pointer: Any, value: int) -> int:
    """Write through a byref() as the driver would; returns the success code."""
    pointer._obj.value = value
    return 0


def write_text(buffer: Any, text: str) -> int:
    buffer.value = text.encode()
    return 0


class Nvml:
    """Two GPUs; `codes` overrides the return code of a function."""

    def __init__(self, **codes: int) -> None:
        self.codes = codes
        self.shut_down = 0

    def _code(self, name: str, value: int = 0) -> int:
        return self.codes.get(name, value)

    def nvmlInit_v2(self) -> int:
        return self._code("init")

    def nvmlShutdown(self) -> int:
        self.shut_down += 1
        return 0

    def nvmlSystemGetDriverVersion(self, buffer: Any, size: Any) -> int:
        return write_text(buffer, "570.86.10")

    def nvmlSystemGetCudaDriverVersion_v2(self, pointer: Any) -> int:
        return put(pointer, 12080)

    def nvmlDeviceGetCount_v2(self, pointer: Any) -> int:
        return put(pointer, self.codes.get("count", 2))

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, pointer: Any) -> int:
        return put(pointer, index.value + 1)

    def nvmlDeviceGetName(self, device: Any, buffer: Any, size: Any) -> int:
        return write_text(buffer, ["RTX 4090", "RTX 2080"][device.value - 1])

    def nvmlDeviceGetCudaComputeCapability(self, device: Any, major: Any, minor: Any) -> int:
        put(major, [8, 7][device.value - 1])
        return put(minor, [9, 5][device.value - 1])

    def nvmlDeviceGetMemoryInfo(self, device: Any, pointer: Any) -> int:
        pointer._obj.total, pointer._obj.free = 24 * GIB, 20 * GIB
        return self._code("memory")


class Cuda:
    """One Orin, as libcuda tells it."""

    def __init__(self, init: int = 0) -> None:
        self.init = init

    def cuInit(self, flags: int) -> int:
        return self.init

    def cuDriverGetVersion(self, pointer: Any) -> int:
        return put(pointer, 12060)

    def cuDeviceGetCount(self, pointer: Any) -> int:
        return put(pointer, 1)

    def cuDeviceGet(self, pointer: Any, index: int) -> int:
        return put(pointer, 0)

    def cuDeviceGetAttribute(self, pointer: Any, attribute: int, device: Any) -> int:
        return put(pointer, {75: 8, 76: 7}[attribute])

    def cuDeviceGetName(self, buffer: Any, size: int, device: Any) -> int:
        return write_text(buffer, "Orin")

    def cuDeviceTotalMem_v2(self, pointer: Any, device: Any) -> int:
        return put(pointer, 8 * GIB)


def libraries(**named: Any) -> Callable[[str], Any]:
    known = {NVML: named.get("nvml"), CUDA: named.get("cuda")}

    def open_library(name: str) -> Any:
        if known[name] is None:
            raise OSError(f"{name}: cannot open shared object file")
        return known[name]

    return open_library


def no_program(command: list[str]) -> None:
    return None


def test_nvml_lists_every_gpu() -> None:
    nvml = Nvml()
    report = probe_gpus(libraries(nvml=nvml), no_program)
    assert report.source == "nvml"
    assert (report.driver, report.cuda) == ("570.86.10", "12.8")
    assert [(g.name, g.architecture) for g in report.gpus] == [
        ("RTX 4090", "sm_89"),
        ("RTX 2080", "sm_75"),
    ]
    assert report.gpus[0].memory_total_bytes == 24 * GIB
    assert report.gpus[0].memory_free_bytes == 20 * GIB
    assert nvml.shut_down == 1


def test_a_gpu_that_does_not_tell_its_memory_is_still_a_gpu() -> None:
    """Jetsons answer 'not supported' (3) here."""
    report = probe_gpus(libraries(nvml=Nvml(memory=3)), no_program)
    assert report.gpus[0].memory_total_bytes is None
    assert report.gpus[0].compute_capability == (8, 9)


@pytest.mark.parametrize("nvml", [None, Nvml(init=9), Nvml(count=0)])
def test_libcuda_is_asked_where_nvml_knows_nothing(nvml: Nvml | None) -> None:
    report = probe_gpus(libraries(nvml=nvml, cuda=Cuda()), no_program)
    assert report.source == "cuda"
    assert report.cuda == "12.6"
    assert [(g.name, g.architecture, g.memory_total_bytes) for g in report.gpus] == [
        ("Orin", "sm_87", 8 * GIB)
    ]


def test_nvidia_smi_is_asked_last() -> None:
    def smi(command: list[str]) -> str:
        assert command[0] == "nvidia-smi"
        good = "0, NVIDIA RTX A2000, 8.6, 12282, 11000, 535.1"
        return f"{good}\nwarning: something\n1, Odd, [N/A], [N/A], 5, 535.1\n"

    report = probe_gpus(libraries(), smi)
    assert (report.source, report.driver) == ("nvidia-smi", "535.1")
    assert report.gpus[0].architecture == "sm_86"
    assert report.gpus[0].memory_free_bytes == 11000 * 2**20
    assert (report.gpus[1].architecture, report.gpus[1].memory_total_bytes) == ("sm_unknown", None)


def test_a_machine_without_a_driver_says_what_is_missing() -> None:
    report = probe_gpus(libraries(), no_program)
    assert report.gpus == ()
    assert report.problem is not None
    assert f"{NVML} is not there; {CUDA} is not there" in report.problem


def test_a_driver_that_fails_says_its_code() -> None:
    """Code 999: the kernel module is older than the library, for example after an update."""
    report = probe_gpus(libraries(nvml=Nvml(init=18), cuda=Cuda(init=999)), no_program)
    assert report.problem is not None
    assert "nvmlInit failed with code 18" in report.problem
    assert "cuInit failed with code 999" in report.problem


def test_a_library_without_the_functions_is_no_driver() -> None:
    report = probe_gpus(libraries(nvml=object(), cuda=object()), no_program)
    assert report.gpus == ()


def test_the_real_probe_never_raises() -> None:
    report = probe_gpus()
    assert bool(report.gpus) is (report.problem is None)
