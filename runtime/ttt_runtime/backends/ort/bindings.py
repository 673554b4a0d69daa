"""What a decoder graph is bound to: its rows' buffers, and the cache, in place.

Bindings are made once and kept. The standard decoder gets one for each number Q of rows and each
number C of cache rows bound (with the layout `rows` a forward binds only the first C rows of the
cache, the context rounded up to a bucket). The GQA decoder gets one for each Q; only its mask
is bound anew when the context has grown.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ttt_ref.errors import BundleError, TttError
from ttt_runtime.backends.base import Floats
from ttt_runtime.backends.kv_cache import KvCache
from ttt_runtime.backends.ort.session import GraphSession, first_line
from ttt_runtime.bundle.gqa_spec import is_gqa
from ttt_runtime.bundle.graph_spec import TensorSpec

_KEPT: Final = 24

NUMPY_TYPES: Final[Mapping[str, Any]] = {
    "float32": np.float32,
    "float16": np.float16,
    "int64": np.int64,
    "bool": np.bool_,
}


def run_bound(session: GraphSession, binding: Any) -> None:
    """Run a graph on its bindings; TttError if onnxruntime fails."""
    try:
        session.ort_session.run_with_iobinding(binding)
    except Exception as error:  # onnxruntime has no base class for its errors
        reason = first_line(error)
        raise TttError(f"onnxruntime failed in graph {session.spec.name}: {reason}") from error


class BoundForward:
    """Buffers of one forward of Q rows, and the binding that holds their addresses.

    Attributes:
        embeds: [Q, hidden], to be filled.
        positions: [Q], to be filled.
        write_index: [1], to be filled where the graph has it.
        mask: [Q, C] or [Q, T], to be filled.
        hidden: [Q, hidden], the result.
    """

    def __init__(self, session: GraphSession, cache: KvCache, dims: Mapping[str, int]) -> None:
        self.binding: Any = session.ort_session.io_binding()
        self._session = session
        self._keep: list[NDArray[Any]] = []  # the binding holds only addresses
        spec = session.spec
        for tensor in spec.inputs:
            if tensor.name.startswith("past_"):
                self._bind(tensor, dims, cache.buffers[tensor.name])
        for tensor in spec.outputs:
            if tensor.name.startswith("present_"):
                past = cache.buffers[tensor.name.replace("present_", "past_", 1)]
                self._bind(tensor, dims, past, output=True)
        self.embeds: NDArray[Any] = self._own(spec.input("embeds"), dims)[0]
        self.positions: NDArray[np.int64] = self._own(spec.input("positions"), dims)[0]
        hidden = spec.output("hidden")
        self.hidden: Floats = self._own(hidden, dims, output=True)[0]
        self.write_index: NDArray[np.int64] = np.zeros(1, np.int64)
        self.mask: NDArray[np.bool_]

    def _own(
        self, tensor: TensorSpec, dims: Mapping[str, int], *, output: bool = False
    ) -> NDArray[Any]:
        array = np.zeros(tensor.resolve(dims), NUMPY_TYPES[tensor.dtype])
        return self._bind(tensor, dims, array, output=output)

    def _bind(
        self,
        tensor: TensorSpec,
        dims: Mapping[str, int],
        array: NDArray[Any],
        *,
        output: bool = False,
    ) -> NDArray[Any]:
        put = self.binding.bind_output if output else self.binding.bind_input
        put(tensor.name, "cpu", 0, array.dtype.type, tensor.resolve(dims), array.ctypes.data)
        self._keep.append(array)
        return array

    def run(self) -> None:
        """Run the graph."""
        run_bound(self._session, self.binding)


class _StandardForward(BoundForward):
    def __init__(self, session: GraphSession, cache: KvCache, dims: Mapping[str, int]) -> None:
        super().__init__(session, cache, dims)
        spec = session.spec
        self.write_index = self._bind(spec.input("write_index"), dims, self.write_index)
        self.mask = self._own(spec.input("mask"), dims)


class _GroupedForward(BoundForward):
    def __init__(self, session: GraphSession, cache: KvCache, dims: Mapping[str, int]) -> None:
        super().__init__(session, cache, dims)
        self._rows = dims["Q"]
        # Room for the whole cache; pages that no context reaches are never touched.
        self._room = np.zeros(self._rows * cache.capacity, np.bool_)
        self._context = 0

    def widen(self, context: int) -> None:
        """Bind the mask for this many rows of context."""
        if context == self._context:
            return
        self._context = context
        self.mask = self._room[: self._rows * context].reshape(self._rows, context)
        self.binding.bind_input("mask", "cpu", 0, np.bool_, self.mask.shape, self._room.ctypes.data)


class Bindings(Protocol):
    """Finds or makes what a forward is bound to."""

    def bound(self, cache: KvCache, rows: int, stop: int) -> BoundForward:
        """Return the bindings of `rows` rows that end before cache row `stop`."""
        ...


class _Kept:
    """The bindings used last, by whatever tells them apart."""

    def __init__(self) -> None:
        self._made: OrderedDict[tuple[int, ...], Any] = OrderedDict()

    def get(self, key: tuple[int, ...], make: Callable[[], Any]) -> Any:
        found = self._made.get(key)
        if found is not None:
            self._made.move_to_end(key)
            return found
        if len(self._made) >= _KEPT:
            self._made.popitem(last=False)
        made = self._made[key] = make()
        return made


class PortableBindings:
    """Bindings of the standard decoder.

    Args:
        session: the decoder.
        bucket_rows: the bound part of the cache grows in steps of this many rows.
    """

    def __init__(self, session: GraphSession, bucket_rows: int) -> None:
        names = [t.name for t in session.spec.inputs[:4]]
        if names != ["embeds", "positions", "write_index", "mask"]:
            raise BundleError(f"the decoder's first inputs are {', '.join(names)}; export it again")
        self._session = session
        self._bucket = bucket_rows
        self._is_open = isinstance(session.spec.input("mask").shape[1], str)
        self._kept = _Kept()

    def bound(self, cache: KvCache, rows: int, stop: int) -> BoundForward:
        """See `Bindings.bound`."""
        cache_rows = cache.capacity
        if cache.prefix_is_contiguous and self._is_open:
            cache_rows = min(-(-stop // self._bucket) * self._bucket, cache.capacity)
        dims = {"Q": rows, "C": cache_rows}
        found: BoundForward = self._kept.get(
            (id(cache), rows, cache_rows), lambda: _StandardForward(self._session, cache, dims)
        )
        return found


class GroupedBindings:
    """Bindings of the GQA decoder."""

    def __init__(self, session: GraphSession) -> None:
        names = [t.name for t in session.spec.inputs[:3]]
        if names != ["embeds", "positions", "mask"]:
            raise BundleError(f"the decoder's first inputs are {', '.join(names)}; export it again")
        self._session = session
        self._kept = _Kept()

    def bound(self, cache: KvCache, rows: int, stop: int) -> BoundForward:
        """See `Bindings.bound`."""
        dims = {"Q": rows, "C": cache.capacity}
        found: _GroupedForward = self._kept.get(
            (id(cache), rows), lambda: _GroupedForward(self._session, cache, dims)
        )
        found.widen(stop)
        return found


def bindings_for(session: GraphSession, bucket_rows: int) -> Bindings:
    """Return what binds a decoder of this form."""
    if is_gqa(session.spec):
        return GroupedBindings(session)
    return PortableBindings(session, bucket_rows)
