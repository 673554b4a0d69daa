"""A TensorRT engine as a graph of the device runner; the same for TensorRT and TensorRT-RTX.

A context is set to one profile and one shape at a time. Each profile has a context of its own, and
what a launch has set is set again only when another launch came between: a row of text steps sets
nothing. All contexts share one piece of scratch memory, since one stream runs them in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ttt_ref.errors import BundleError, DeviceError, TttError
from ttt_runtime.backends.gpu.cuda import CapturedGraph, CudaStream
from ttt_runtime.backends.tensorrt.api import Backend
from ttt_runtime.backends.tensorrt.dtypes import DTYPES
from ttt_runtime.bundle.basic_spec import is_basic
from ttt_runtime.bundle.graph_spec import DECODER, GraphSpec

# Captured on its second run, when TensorRT has done what it does once for a new shape.
_RUNS_BEFORE_CAPTURE: Final = 1
# A captured launch keeps a context of its own (a graph is void once its context is set anew).
CAPTURED_ROWS: Final = 64
MOST_CAPTURES: Final = 32


@dataclass(frozen=True)
class RowRange:
    """The rows that an optimization profile takes."""

    profile: int
    least: int
    most: int


def check_engine(engine: Any, spec: GraphSpec, trt: Any) -> list[RowRange]:
    """Hold a loaded engine against its graph's spec; return its profiles' ranges of rows.

    Raises:
        BundleError: names, types, shapes or the place of a tensor are not the spec's.
    """
    modes = {t.name: trt.TensorIOMode.INPUT for t in spec.inputs}
    modes |= {t.name: trt.TensorIOMode.OUTPUT for t in spec.outputs}
    names = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
    if names != modes.keys():
        wrong = ", ".join(sorted(names ^ modes.keys())[:4])
        raise BundleError(f"the engine of {spec.name} differs from its spec in {wrong}; {_AGAIN}")
    for tensor in (*spec.inputs, *spec.outputs):
        name = tensor.name
        native = engine.get_tensor_dtype(name).name
        shape = tuple(engine.get_tensor_shape(name))
        want = tuple(-1 if isinstance(dim, str) else dim for dim in tensor.shape)
        dtype = DTYPES.get(native, native)
        if dtype != tensor.dtype or shape != want or engine.get_tensor_mode(name) != modes[name]:
            raise BundleError(
                f"the engine of {spec.name} has {name} as {dtype} {list(shape)}, its spec says "
                f"{tensor.dtype} {list(want)}; {_AGAIN}"
            )
        if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise BundleError(f"the engine of {spec.name} wants {name} on the host; {_AGAIN}")
    _check_in_place(engine, spec)
    return _row_ranges(engine, spec)


_AGAIN: Final = "build it again with ttt-engines"


def _check_in_place(engine: Any, spec: GraphSpec) -> None:
    """The cache is written where it is read: the engine must not expect two buffers."""
    alias = getattr(engine, "get_aliased_input_tensor", None)
    if alias is None:  # before TensorRT 10.15
        return
    for tensor in spec.outputs:
        if tensor.name.startswith("present_"):
            past = tensor.name.replace("present_", "past_", 1)
            seen = alias(tensor.name)
            if seen not in (past, None):
                raise BundleError(
                    f"the engine of {spec.name} writes {tensor.name} over {seen}, not over {past}; "
                    f"{_AGAIN}"
                )


def _row_ranges(engine: Any, spec: GraphSpec) -> list[RowRange]:
    dim = "Q" if spec.name == DECODER else "N"
    tensor = next(t for t in spec.inputs if dim in t.shape)
    axis = tensor.shape.index(dim)
    ranges = []
    for profile in range(engine.num_optimization_profiles):
        least, _, most = engine.get_tensor_profile_shape(tensor.name, profile)
        ranges.append(RowRange(profile, int(least[axis]), int(most[axis])))
    if not ranges:
        raise BundleError(f"the engine of {spec.name} has no profile; {_AGAIN}")
    return ranges


class EngineGraph:
    """A loaded engine; see `graph.Graph`.

    Args:
        backend: the library that loaded it.
        engine: the engine.
        spec: of its graph.
        stream: where it runs.
        new_context: makes a context without scratch memory.
        scratch: address and size of the memory that all contexts share.
        captures: replay small launches as CUDA graphs.
    """

    all_outputs = True

    def __init__(
        self,
        backend: Backend,
        engine: Any,
        spec: GraphSpec,
        stream: CudaStream,
        new_context: Callable[[], Any],
        scratch: tuple[int, int],
        *,
        captures: bool = False,
    ) -> None:
        self._backend = backend
        self._spec = spec
        self._ranges = check_engine(engine, spec, backend.trt)
        self._stream = stream
        self._new_context = new_context
        self._scratch = scratch
        self._contexts: dict[int, _Context] = {}
        self._captures_left = MOST_CAPTURES if captures else 0

    @property
    def spec(self) -> GraphSpec:
        """See `graph.Graph.spec`."""
        return self._spec

    @property
    def in_place(self) -> bool:
        """See `graph.Graph.in_place`; nothing promises it of an engine made of basic operators."""
        return not is_basic(self._spec)

    @property
    def most_rows(self) -> int:
        """See `graph.Graph.most_rows`."""
        return max(rows.most for rows in self._ranges)

    def bind(self, dims: Mapping[str, int], addresses: Mapping[str, int]) -> EngineLaunch:
        """See `graph.Graph.bind`; DeviceError if no profile holds so many rows."""
        rows = dims.get("Q") or dims["N"]
        fitting = [r for r in self._ranges if r.least <= rows <= r.most]
        if not fitting:
            raise DeviceError(
                f"the engine of {self._spec.name} takes at most {self.most_rows} rows, not {rows}; "
                f"{_AGAIN}"
            )
        # The narrowest range first: its kernels were chosen for few rows.
        profile = min(fitting, key=lambda r: (r.most - r.least, r.profile)).profile
        shapes = {
            t.name: t.resolve(dims)
            for t in self._spec.inputs
            if any(isinstance(dim, str) for dim in t.shape)
        }
        return EngineLaunch(self, profile, shapes, dict(addresses), rows)

    def context(self, profile: int) -> _Context:
        """Return the context of a profile."""
        if profile not in self._contexts:
            self._contexts[profile] = self.fresh_context(profile)
        return self._contexts[profile]

    def fresh_context(self, profile: int) -> _Context:
        """Return a new context, set to a profile."""
        self._stream.enter()
        self._backend.clear()
        native = self._new_context()
        if native is None:
            raise self.failure("no execution context")
        address, size = self._scratch
        give = getattr(native, "set_device_memory", None)  # since TensorRT 10.1
        if give is None:
            native.device_memory = address
        else:
            give(address, size)
        if not native.set_optimization_profile_async(profile, self._stream.handle):
            raise self.failure(f"profile {profile} was refused")
        self._stream.synchronize()
        return _Context(native)

    def may_capture(self, rows: int) -> bool:
        """Tell whether a launch of so many rows is to become a CUDA graph."""
        return rows <= CAPTURED_ROWS and self._captures_left > 0

    def capture(self, launch: EngineLaunch) -> CapturedGraph:
        """Record a launch, in a context that nobody else will set."""
        self._captures_left -= 1
        context = self.fresh_context(launch.profile)
        launch.set(context)
        self.enqueue(context)  # flushes what TensorRT has put off to the first run
        self._stream.synchronize()
        return self._stream.capture(lambda: self.enqueue(context))

    def enqueue(self, context: _Context) -> None:
        """Put the engine's work into the stream."""
        if not context.native.execute_async_v3(self._stream.handle):
            raise self.failure("a run was refused")

    def enter(self) -> None:
        """Make the GPU's context current in this thread."""
        self._stream.enter()

    def failure(self, what: str) -> TttError:
        """Return an error with the library's own words."""
        title = self._backend.flavour.title
        reason = self._backend.first_error()
        return TttError(f"{title} failed in graph {self._spec.name}: {what}: {reason}")


class _Context:
    """A native context and the launch that has set it last."""

    def __init__(self, native: Any) -> None:
        self.native = native
        self.set_by: EngineLaunch | None = None


class EngineLaunch:
    """An engine bound to one shape and one set of addresses; see `graph.Launch`."""

    def __init__(
        self,
        graph: EngineGraph,
        profile: int,
        shapes: Mapping[str, tuple[int, ...]],
        addresses: Mapping[str, int],
        rows: int,
    ) -> None:
        self.profile = profile
        self._graph = graph
        self._shapes = shapes
        self._addresses = addresses
        self._rows = rows
        self._runs = 0
        self._captured: CapturedGraph | None = None

    def __call__(self) -> None:
        """Put the engine's work into the stream."""
        graph = self._graph
        graph.enter()
        if self._captured is not None:
            self._captured.launch()
            return
        if self._runs == _RUNS_BEFORE_CAPTURE and graph.may_capture(self._rows):
            self._captured = graph.capture(self)
            return  # the run before the capture was this one's
        self._runs += 1
        context = graph.context(self.profile)
        if context.set_by is not self:
            self.set(context)
        graph.enqueue(context)

    def set(self, context: _Context) -> None:
        """Give a context this launch's shapes and addresses."""
        native = context.native
        context.set_by = None
        for name, shape in self._shapes.items():
            if not native.set_input_shape(name, shape):
                raise self._graph.failure(f"shape {list(shape)} of {name} was refused")
        for name, address in self._addresses.items():
            if not native.set_tensor_address(name, address):
                raise self._graph.failure(f"the address of {name} was refused")
        context.set_by = self
