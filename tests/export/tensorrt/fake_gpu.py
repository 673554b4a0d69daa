"""A GPU made of host memory: a driver whose stream runs late, and engines that really compute.

The driver keeps what is put into its stream and does it when somebody waits, as a GPU may; fresh
memory is NaN. The engines run their ONNX graph through onnxruntime at the very addresses that
they were given. So a missing wait, a wrong address or a stale shape gives wrong ids here too.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime

from tests.export.tensorrt.fake_trt import FakeModule, ILogger
from ttt_runtime.backends.gpu.memory import NUMPY
from ttt_runtime.backends.tensorrt.dtypes import DTYPES
from ttt_runtime.bundle.graph_spec import GraphSpec, TensorSpec

Work = Callable[[], None]


class CUresult(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_INVALID_CONTEXT = 201


GOOD = CUresult.CUDA_SUCCESS


class FakeDriver:
    """The functions of `cuda.bindings.driver` that the runtime calls, with their results."""

    CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)
    STREAM = 77

    def __init__(self, memory: int = 2**30) -> None:
        self.left = memory
        self.blocks: dict[int, Any] = {}
        self.pending: list[Work] = []
        self.captured: list[Work] | None = None
        self.graphs: dict[int, list[Work]] = {}
        self.launched = 0
        self.waits = 0

    def _put(self, work: Work) -> tuple[CUresult]:
        (self.pending if self.captured is None else self.captured).append(work)
        return (GOOD,)

    def cuInit(self, flags: int) -> tuple[Any, ...]:
        return (GOOD,)

    def cuDeviceGet(self, index: int) -> tuple[Any, ...]:
        return (GOOD, index)

    def cuDevicePrimaryCtxRetain(self, device: int) -> tuple[Any, ...]:
        return (GOOD, "context")

    def cuCtxSetCurrent(self, context: str) -> tuple[Any, ...]:
        return (GOOD,)

    def cuMemGetInfo(self) -> tuple[Any, ...]:
        return (GOOD, self.left, 2**30)

    def cuStreamCreate(self, flags: int) -> tuple[Any, ...]:
        return (GOOD, self.STREAM)

    def cuStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        self.waits += 1
        todo, self.pending = self.pending, []
        for work in todo:
            work()
        return (GOOD,)

    def cuMemAlloc(self, size: int) -> tuple[Any, ...]:
        if size > self.left:
            return (CUresult.CUDA_ERROR_OUT_OF_MEMORY, None)
        self.left -= size
        raw = (ctypes.c_uint8 * (size + 256))()
        ctypes.memset(raw, 0xFF, size + 256)  # NaN in every float type
        address = -(-ctypes.addressof(raw) // 256) * 256
        self.blocks[address] = (raw, size)
        return (GOOD, address)

    def cuMemFree(self, address: int) -> tuple[Any, ...]:
        self.left += self.blocks.pop(address)[1]
        return (GOOD,)

    def cuMemHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        raw = (ctypes.c_uint8 * size)()
        self.blocks[ctypes.addressof(raw)] = (raw, 0)
        return (GOOD, ctypes.addressof(raw))

    def cuMemFreeHost(self, address: int) -> tuple[Any, ...]:
        del self.blocks[address]
        return (GOOD,)

    def cuMemsetD8Async(self, address: int, value: int, size: int, stream: int) -> tuple[Any, ...]:
        return self._put(lambda: ctypes.memset(address, value, size))

    def cuMemcpyHtoDAsync(self, to: int, source: int, size: int, stream: int) -> tuple[Any, ...]:
        return self._put(lambda: ctypes.memmove(to, source, size))

    def cuMemcpyDtoHAsync(self, to: int, source: int, size: int, stream: int) -> tuple[Any, ...]:
        return self._put(lambda: ctypes.memmove(to, source, size))

    def cuStreamBeginCapture(self, stream: int, mode: int) -> tuple[Any, ...]:
        assert self.captured is None
        self.captured = []
        return (GOOD,)

    def cuStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        work, self.captured = self.captured, None
        return (GOOD, work)

    def cuGraphInstantiate(self, graph: list[Work], flags: int) -> tuple[Any, ...]:
        self.graphs[len(self.graphs)] = graph
        return (GOOD, len(self.graphs) - 1)

    def cuGraphDestroy(self, graph: list[Work]) -> tuple[Any, ...]:
        return (GOOD,)

    def cuGraphExecDestroy(self, number: int) -> tuple[Any, ...]:
        del self.graphs[number]
        return (GOOD,)

    def cuGraphLaunch(self, number: int, stream: int) -> tuple[Any, ...]:
        self.launched += 1
        for work in self.graphs[number]:
            self._put(work)
        return (GOOD,)


class FakeContext:
    """An execution context: one profile, shapes, addresses."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self._profile = 0
        self._dims: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._scratch = 0

    def set_device_memory(self, address: int, size: int) -> None:
        assert size >= self._engine.device_memory_size_v2
        self._scratch = address

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self._profile = profile
        self._dims.clear()
        return 0 <= profile < self._engine.num_optimization_profiles

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine.get_tensor_profile_shape(name, self._profile)
        if not all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True)):
            return False
        self._dims[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address % 16 == 0, name
        self._addresses[name] = address
        return name in self._engine.tensors

    def execute_async_v3(self, stream: int) -> bool:
        engine = self._engine
        if stream != FakeDriver.STREAM or not self._scratch:
            return False
        if self._addresses.keys() != engine.tensors.keys():  # every tensor needs one
            return False
        dims = engine.dims(self._dims)
        addresses = dict(self._addresses)
        engine.driver._put(lambda: engine.compute(dims, addresses))
        return True


class FakeEngine:
    """What a runtime gives back: it knows its tensors and computes by onnxruntime."""

    device_memory_size_v2 = 4096

    def __init__(
        self, spec: GraphSpec, graph: Path, profiles: Mapping[str, Any], driver: FakeDriver
    ) -> None:
        self.spec = spec
        self.driver = driver
        self.tensors: dict[str, TensorSpec] = {t.name: t for t in (*spec.inputs, *spec.outputs)}
        self._profiles = list(profiles.values())
        self._session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        self.contexts = 0
        self.num_io_tensors = len(self.tensors)
        self.num_optimization_profiles = len(self._profiles)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_dtype(self, name: str) -> Any:
        names = {ours: theirs for theirs, ours in DTYPES.items()}
        return SimpleNamespace(name=names[self.tensors[name].dtype])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(-1 if isinstance(d, str) else d for d in self.tensors[name].shape)

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name in {t.name for t in self.spec.inputs} else "out"

    def get_tensor_location(self, name: str) -> str:
        return "device"

    def get_aliased_input_tensor(self, name: str) -> str | None:
        return name.replace("present_", "past_", 1) if name.startswith("present_") else None

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        ranges = self._profiles[profile]
        return [
            self.tensors[name].resolve({dim: limits[i] for dim, limits in ranges.items()})
            for i in range(3)
        ]

    def create_execution_context(self, strategy: Any) -> FakeContext:
        assert "user" in (strategy, getattr(strategy, "strategy", None))
        self.contexts += 1
        return FakeContext(self)

    def dims(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        found: dict[str, int] = {}
        for name, shape in shapes.items():
            for dim, size in zip(self.tensors[name].shape, shape, strict=True):
                if isinstance(dim, str):
                    assert found.setdefault(dim, size) == size, "shapes contradict each other"
        return found

    def compute(self, dims: Mapping[str, int], addresses: Mapping[str, int]) -> None:
        binding = self._session.io_binding()
        for tensors, put in (
            (self.spec.inputs, binding.bind_input),
            (self.spec.outputs, binding.bind_output),
        ):
            for t in tensors:
                put(t.name, "cpu", 0, NUMPY[t.dtype], t.resolve(dims), addresses[t.name])
        self._session.run_with_iobinding(binding)


class GpuModule(FakeModule):
    """The fake builder's module with a runtime: its engines are the bundle's graphs."""

    TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
    TensorLocation = SimpleNamespace(DEVICE="device", HOST="host")
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user")
    CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")

    def __init__(
        self, specs: Mapping[str, GraphSpec], folder: Path, driver: FakeDriver, **more: Any
    ) -> None:
        super().__init__(specs, **more)
        self.engines: dict[str, FakeEngine] = {}
        self.profiles: dict[str, Mapping[str, Any]] = {}
        module = self

        class Runtime:
            def __init__(self, logger: Any) -> None:
                self.logger = logger

            def deserialize_cuda_engine(self, data: memoryview) -> Any:
                name = bytes(data).split()[2].decode()
                if module.refuse_engine:
                    self.logger.log(ILogger.ERROR, module.refuse_engine)
                    return None
                spec = module.specs[f"{name}.onnx"]
                engine = FakeEngine(spec, folder / f"{name}.onnx", module.profiles[name], driver)
                module.engines[name] = engine
                return engine

        self.Runtime = Runtime
