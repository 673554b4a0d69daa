"""The CUDA driver through cuda-bindings: memory, one stream, captured graphs.

The bindings are NVIDIA's own (package cuda-bindings, 8 MB): they load the driver's library when a
function is first called and need no toolkit. Imported here and nowhere else.
"""

from __future__ import annotations

import ctypes
import importlib
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ttt_ref.errors import DeviceError, TttError

INSTALL: Final = "pip install 'cuda-bindings>=12.9'"


def import_driver(import_module: Callable[[str], Any] = importlib.import_module) -> Any:
    """Return the module of driver functions; DeviceError if it is not installed."""
    try:
        return import_module("cuda.bindings.driver")
    except ImportError as error:
        reason = " ".join(str(error).split())[:200]
        raise DeviceError(
            f"engines need the package cuda-bindings to reach the GPU ({reason}); run: {INSTALL}"
        ) from None


class CudaStream:
    """The GPU's primary context, which TensorRT uses too, and one stream for everything.

    Args:
        index: number of the GPU.
        api: the module of driver functions.

    Raises:
        DeviceError: there is no driver, or no GPU of this number.
    """

    def __init__(self, index: int = 0, api: Any = None) -> None:
        self._api = import_driver() if api is None else api
        self._current = threading.local()
        try:
            self.call("cuInit", 0)
            device = self.call("cuDeviceGet", index)
            self._context = self.call("cuDevicePrimaryCtxRetain", device)
            self.enter()
            # Not synchronised with the default stream, on which other libraries may wait.
            flags = self._api.CUstream_flags.CU_STREAM_NON_BLOCKING
            self._stream = self.call("cuStreamCreate", int(flags))
        except Exception as error:  # without a driver the bindings raise their loader's own errors
            reason = " ".join(str(error).split())[:200]
            raise DeviceError(
                f"GPU {index} cannot be used: {reason}; check the NVIDIA driver, or choose "
                "--device cpu"
            ) from None
        self.handle = int(self._stream)

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a driver function; returns its result (None, one value or a list).

        Raises:
            TttError: the driver's error by its name.
        """
        code, *values = getattr(self._api, name)(*arguments)
        if int(code) != 0:
            raise TttError(f"the CUDA driver failed in {name}: {getattr(code, 'name', code)}")
        if len(values) > 1:
            return values
        return values[0] if values else None

    def enter(self) -> None:
        """Make the context current in this thread."""
        if not getattr(self._current, "entered", False):
            self.call("cuCtxSetCurrent", self._context)
            self._current.entered = True

    def synchronize(self) -> None:
        """Wait until everything in the stream is done."""
        self.call("cuStreamSynchronize", self._stream)

    def free_bytes(self) -> int:
        """Return the free memory of the GPU."""
        self.enter()
        free, _ = self.call("cuMemGetInfo")
        return int(free)

    def allocate(self, size: int) -> CudaBlock:
        """Return a block of `size` bytes, all zero (so a stream is a `memory.Memory`)."""
        self.enter()
        return CudaBlock(self, size)

    def capture(self, work: Callable[[], None]) -> CapturedGraph:
        """Record what `work` puts into the stream, without running it."""
        self.enter()
        mode = self._api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self.call("cuStreamBeginCapture", self._stream, mode)
        try:
            work()
        finally:
            graph = self.call("cuStreamEndCapture", self._stream)
        executable = self.call("cuGraphInstantiate", graph, 0)
        self.call("cuGraphDestroy", graph)
        return CapturedGraph(self, executable)

    def copy_in(self, address: int, host: int, size: int) -> None:
        """Copy host memory to the device, in stream order."""
        self.call("cuMemcpyHtoDAsync", address, host, size, self._stream)

    def copy_out(self, host: int, address: int, size: int) -> None:
        """Copy device memory to the host, in stream order."""
        self.call("cuMemcpyDtoHAsync", host, address, size, self._stream)

    def clear(self, address: int, size: int) -> None:
        """Fill device memory with zeros, in stream order."""
        self.call("cuMemsetD8Async", address, 0, size, self._stream)

    def launch(self, executable: Any) -> None:
        """Put a captured graph into the stream."""
        self.call("cuGraphLaunch", executable, self._stream)


class CapturedGraph:
    """A piece of stream work that is started as one."""

    def __init__(self, stream: CudaStream, executable: Any) -> None:
        self._stream = stream
        self._executable = executable
        weakref.finalize(self, _free, stream, "cuGraphExecDestroy", executable)

    def launch(self) -> None:
        """Put it into the stream."""
        self._stream.launch(self._executable)


class CudaBlock:
    """Device memory with a page-locked copy on the host; see `memory.Block`."""

    def __init__(self, stream: CudaStream, size: int) -> None:
        self._stream = stream
        self._size = size
        self._host: NDArray[np.uint8] | None = None
        try:
            pointer = stream.call("cuMemAlloc", size)
        except TttError as error:
            raise DeviceError(
                f"the GPU has no {size} bytes left ({error}); end other programs or take a "
                "smaller precision or --cache-rows"
            ) from None
        self.address = int(pointer)
        weakref.finalize(self, _free, stream, "cuMemFree", pointer)
        stream.clear(self.address, size)

    @property
    def host(self) -> NDArray[np.uint8]:
        """The copy on the host."""
        if self._host is None:
            self._stream.enter()
            address = int(self._stream.call("cuMemHostAlloc", self._size, 0))
            weakref.finalize(self, _free, self._stream, "cuMemFreeHost", address)
            raw = (ctypes.c_uint8 * self._size).from_address(address)
            self._host = np.frombuffer(memoryview(raw), np.uint8)
            self._host[...] = 0
        return self._host

    def upload(self) -> None:
        """Send the host's copy to the device; it may be written again at once."""
        self._stream.enter()
        self._stream.copy_in(self.address, self.host.ctypes.data, self._size)
        # The copy is made when the stream comes to it, and the next forward rewrites the host's.
        self._stream.synchronize()

    def download(self) -> None:
        """Fetch the host's copy from the device, after everything before it."""
        self._stream.enter()
        self._stream.copy_out(self.host.ctypes.data, self.address, self._size)
        self._stream.synchronize()


def _free(stream: CudaStream, function: str, what: Any) -> None:
    try:
        stream.enter()
        stream.call(function, what)
    except Exception:  # at the end of the process the driver may be gone already
        return
