"""Graphs of onnxruntime on device memory: IOBinding over OrtValues that stay where they are.

The same code runs over memory of the CPU, which is how it is tested without a GPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ttt_ref.errors import DeviceError, TttError
from ttt_runtime.backends.gpu.graph import Launch
from ttt_runtime.backends.gpu.memory import NUMPY
from ttt_runtime.backends.ort.session import GraphSession, import_onnxruntime
from ttt_runtime.bundle.graph_spec import GraphSpec, TensorSpec

# Forwards of up to this many rows (text steps and blocks) come back often enough to be captured.
CAPTURED_ROWS: Final = 64
# A capture is never given back, so there is an end to them.
MOST_CAPTURES: Final = 64
_NOT_CAPTURED: Final = "-1"  # onnxruntime's own value for "run kernel by kernel"
_ONNX_BFLOAT16: Final = 16  # TensorProto.BFLOAT16


class OrtBlock:
    """Bytes in an OrtValue; see `memory.Block`."""

    def __init__(self, value: Any, size: int) -> None:
        self._value = value
        self._size = size
        self._host: NDArray[np.uint8] | None = None
        self.address: int = value.data_ptr()

    @property
    def host(self) -> NDArray[np.uint8]:
        """The copy on the host."""
        if self._host is None:
            self._host = np.zeros(self._size, np.uint8)
        return self._host

    def upload(self) -> None:
        """Send the host's copy to the device."""
        self._value.update_inplace(self.host)

    def download(self) -> None:
        """Fetch the host's copy from the device."""
        self.host[...] = self._value.numpy()


class OrtMemory:
    """Memory of onnxruntime's allocator; see `memory.Memory`.

    Args:
        kind: cuda, or cpu in tests.
        index: number of the GPU.
    """

    def __init__(self, kind: str, index: int = 0) -> None:
        self.kind = kind
        self.index = index
        self._ort = import_onnxruntime()

    def allocate(self, size: int) -> OrtBlock:
        """Return a block of `size` bytes, all zero; DeviceError if there is no room."""
        try:
            value = self._ort.OrtValue.ortvalue_from_shape_and_type(
                [size], np.uint8, self.kind, self.index
            )
            value.update_inplace(np.zeros(size, np.uint8))
        except Exception as error:  # onnxruntime has no base class for its errors
            reason = " ".join(str(error).split())[:200]
            raise DeviceError(
                f"{self.kind}:{self.index} has no {size} bytes left: {reason}; end other programs "
                "or take a smaller precision"
            ) from None
        return OrtBlock(value, size)

    def synchronize(self) -> None:
        """Return at once: onnxruntime's runs and copies are over when they return."""


class OrtGraph:
    """A session whose tensors lie in an OrtMemory; see `graph.Graph`.

    Args:
        session: the loaded graph, on the memory's device.
        memory: where its tensors will lie.
        captures: replay small forwards as CUDA graphs (the session must have been made for it).
    """

    all_outputs = False
    in_place = True
    most_rows = None

    def __init__(self, session: GraphSession, memory: OrtMemory, *, captures: bool = False) -> None:
        self._session = session
        self._memory = memory
        self._captures = captures
        self._numbers = itertools.count(1)
        self._ort = import_onnxruntime()

    @property
    def spec(self) -> GraphSpec:
        """See `graph.Graph.spec`."""
        return self._session.spec

    def bind(self, dims: Mapping[str, int], addresses: Mapping[str, int]) -> Launch:
        """See `graph.Graph.bind`."""
        session, kind, index = self._session.ort_session, self._memory.kind, self._memory.index
        binding = session.io_binding()
        for tensors, put in (
            (self.spec.inputs, binding.bind_input),
            (self.spec.outputs, binding.bind_output),
        ):
            for tensor in tensors:
                if tensor.name in addresses:
                    shape = tensor.resolve(dims)
                    address = addresses[tensor.name]
                    put(tensor.name, kind, index, _element(tensor), shape, address)
        options = self.run_options(max(dims.get("Q", 0), dims.get("N", 0)))
        name = self.spec.name

        def launch() -> None:
            try:
                session.run_with_iobinding(binding, options)
            except Exception as error:  # onnxruntime has no base class for its errors
                reason = " ".join(str(error).split())
                raise TttError(f"onnxruntime failed in graph {name}: {reason}") from error

        return launch

    def run_options(self, rows: int) -> Any:
        """Return the options of a run of so many rows: which captured graph; None if none is."""
        if not self._captures:
            return None
        number = next(self._numbers) if rows <= CAPTURED_ROWS else MOST_CAPTURES + 1
        options = self._ort.RunOptions()
        chosen = str(number) if number <= MOST_CAPTURES else _NOT_CAPTURED
        options.add_run_config_entry("gpu_graph_id", chosen)
        return options


def _element(tensor: TensorSpec) -> Any:
    return _ONNX_BFLOAT16 if tensor.dtype == "bfloat16" else NUMPY[tensor.dtype]
