"""A stand-in for NVIDIA's Python module: it takes the same calls and builds bytes that tell them.

Only the flow around the builder is tested with it; what a builder really does with our graphs is
tested with the real one (test_real_builds.py).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from ttt_runtime.backends.tensorrt.api import Backend, find_flavour
from ttt_runtime.bundle.graph_spec import GraphSpec
from ttt_runtime.machine.gpu import Gpu, GpuReport

ORIN = GpuReport(gpus=(Gpu(0, "Orin", (8, 7)),), driver="540.4", cuda="12.6", source="nvml")
NO_GPU = GpuReport(problem="no NVIDIA GPU or driver (libcuda.so.1 is not there)")

_NAMES = {
    "float32": "FLOAT",
    "float16": "HALF",
    "bfloat16": "BF16",
    "int64": "INT64",
    "bool": "BOOL",
}


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class IProgressMonitor:
    pass


class BuilderFlag(enum.Enum):
    TF32 = 0


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class ComputeCapability(enum.Enum):
    CURRENT = 0
    SM75 = 75
    SM86 = 86


class LayerType(enum.Enum):
    MATRIX_MULTIPLY = 0


class _Config:
    def __init__(self, cache_is_foreign: bool) -> None:
        self.told: list[str] = []
        self.profiles = 0
        self.progress_monitor: Any = None
        self._foreign = cache_is_foreign
        self._cache = b""

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.told.append(f"workspace {size}")

    def clear_flag(self, flag: Any) -> None:
        self.told.append(f"no {flag.name}")

    def set_compute_capability(self, capability: Any, index: int) -> None:
        self.told.append(f"{index}:{capability.name}")

    def add_optimization_profile(self, profile: Any) -> int:
        self.told.append(repr(sorted(profile.shapes.items())))
        self.profiles += 1
        return self.profiles - 1

    def create_timing_cache(self, data: bytes) -> bytes:
        return data

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        if cache and self._foreign:
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: self._cache + b"+1")


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, *shapes: Any) -> None:
        self.shapes[name] = shapes


class FakeModule(ModuleType):
    """`specs` say what the parser finds in a file; `behaviour` what goes wrong."""

    def __init__(self, specs: Mapping[str, GraphSpec], version: str = "10.15.1.29") -> None:
        super().__init__("tensorrt")
        self.__version__ = version
        self.specs = dict(specs)
        self.builds = 0
        self.told: list[str] = []
        self.fail_build = ""
        self.cancel_at: Any = None
        self.foreign_timing_cache = False
        self.refuse_engine = ""
        module = self

        class OnnxParser:
            def __init__(self, network: Any, logger: Any) -> None:
                self.network = network
                self.num_errors = 0

            def parse_from_file(self, path: str) -> bool:
                spec = module.specs[Path(path).name]
                self.network.fill(spec)
                return True

        class Network:
            num_layers = 0

            def fill(self, spec: GraphSpec) -> None:
                self.spec = spec
                self._in, self._out = (
                    [
                        SimpleNamespace(
                            name=t.name,
                            dtype=SimpleNamespace(name=_NAMES[t.dtype]),
                            shape=tuple(-1 if isinstance(d, str) else d for d in t.shape),
                        )
                        for t in tensors
                    ]
                    for tensors in (spec.inputs, spec.outputs)
                )
                self.num_inputs, self.num_outputs = len(self._in), len(self._out)

            def get_input(self, index: int) -> Any:
                return self._in[index]

            def get_output(self, index: int) -> Any:
                return self._out[index]

        class Builder:
            def __init__(self, logger: Any) -> None:
                self.logger = logger

            def create_network(self, flags: int) -> Any:
                assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
                return Network()

            def create_builder_config(self) -> Any:
                return _Config(module.foreign_timing_cache)

            def create_optimization_profile(self) -> Any:
                return _Profile()

            def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
                module.builds += 1
                module.told = config.told
                monitor = config.progress_monitor
                monitor.phase_start("Building", None, 3)
                for step in range(3):
                    monitor.phase_start("Timing", "Building", 1)
                    if step == module.cancel_at:
                        module.interrupt()
                    monitor.phase_finish("Timing")
                    if not monitor.step_complete("Building", step):
                        return None
                monitor.phase_finish("Building")
                if module.fail_build:
                    self.logger.log(ILogger.ERROR, module.fail_build)
                    return None
                return f"engine {module.builds} {network.spec.name} {config.told}".encode()

        class Runtime:
            def __init__(self, logger: Any) -> None:
                self.logger = logger

            def deserialize_cuda_engine(self, data: bytes) -> Any:
                if module.refuse_engine:
                    self.logger.log(ILogger.ERROR, module.refuse_engine)
                    return None
                return SimpleNamespace(data=data)

        self.OnnxParser, self.Builder, self.Runtime = OnnxParser, Builder, Runtime
        self.ILogger, self.IProgressMonitor = ILogger, IProgressMonitor
        self.BuilderFlag, self.MemoryPoolType = BuilderFlag, MemoryPoolType
        self.NetworkDefinitionCreationFlag = NetworkDefinitionCreationFlag
        self.ComputeCapability, self.LayerType = ComputeCapability, LayerType

    def interrupt(self) -> None:
        """What happens at the build step `cancel_at`."""

    def backend(self, engine: str = "tensorrt") -> Backend:
        """Return this module as a loaded backend."""
        return Backend(find_flavour(engine), self, self.__version__)
