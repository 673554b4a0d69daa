"""The KV cache: preallocated, written in place by the decoder graph, cut back in O(1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ttt_ref.arguments import is_whole, shown
from ttt_ref.errors import BundleError, ConfigError
from ttt_runtime.bundle.graph_spec import GraphSpec

DEFAULT_CAPACITY: Final = 4096
_NUMPY = {"float32": np.float32, "float16": np.float16, "int8": np.int8}


def open_capacity(limit: int, requested: int | None) -> int:
    """Return the rows of a cache of open length; ConfigError for more than the model allows."""
    if requested is None:
        return min(limit, DEFAULT_CAPACITY)
    if not is_whole(requested) or not 1 <= requested <= limit:
        raise ConfigError(f"capacity {shown(requested)}; the model allows 1 .. {limit}")
    return requested


class WrittenRows:
    """Which rows of a cache are written: the part that all caches have in common.

    Rows below `committed` have been written by a forward and may be read by the next one; a
    forward that starts lower overwrites what lies above its start. Which of them are final for
    the sequence is the scheduler's knowledge, not the cache's.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.committed = 0

    def commit(self, rows: int) -> None:
        """Declare the rows below `rows` written."""
        assert self.committed <= rows <= self.capacity, (self.committed, rows, self.capacity)
        self.committed = rows

    def truncate(self, rows: int) -> None:
        """Forget everything from row `rows` on. O(1)."""
        assert 0 <= rows <= self.committed, f"row {rows} of {self.committed} written ones"
        self.committed = rows
        self._spoil(rows)

    def reset(self) -> None:
        """Forget everything."""
        self.truncate(0)

    def _spoil(self, rows: int) -> None:
        """Make rows from `rows` on unfit to be read, where that was asked for."""


Cache = TypeVar("Cache", bound=WrittenRows)


class SequenceCaches(Generic[Cache]):
    """The cache of a sequence, and a second one for rows that are not part of it.

    Args:
        make: makes one cache; the second is made when it is first used.
    """

    def __init__(self, make: Callable[[], Cache]) -> None:
        self._make = make
        self.sequence = make()
        self._scratch: Cache | None = None

    def begin(self, rows: int, start: int, *, scratch: bool) -> Cache:
        """Return the cache that a forward of rows start .. start+rows-1 writes, cut to `start`."""
        if scratch and self._scratch is None:
            self._scratch = self._make()
        cache = self._scratch if scratch and self._scratch is not None else self.sequence
        assert rows > 0, "a forward without rows"
        assert start + rows <= cache.capacity, (start + rows, cache.capacity)
        cache.truncate(start)
        return cache


class KvCache(WrittenRows):
    """K and V of all layers for up to `capacity` rows.

    The memory is asked for at once but taken from the system page by page as rows are written,
    so an unused capacity costs nothing.

    Args:
        spec: the decoder's spec; gives number of layers, shapes, dtype and layout.
        capacity: rows to keep.
        poison: fill unwritten and truncated rows with NaN, so that a read too far is loud.
    """

    def __init__(self, spec: GraphSpec, capacity: int, *, poison: bool = False) -> None:
        tensors = [t for t in spec.inputs if t.name.startswith("past_")]
        if not tensors:
            raise BundleError(f"graph {spec.name!r} has no past_k / past_v inputs")
        self.row_axis = 1 if spec.attributes.get("cache_layout", "rows") == "rows" else 2
        fixed = tensors[0].shape[self.row_axis]
        if isinstance(fixed, int) and capacity != fixed:
            raise ConfigError(f"cache of {capacity} rows; this decoder is built for {fixed}")
        if tensors[0].dtype not in _NUMPY:
            raise ConfigError(f"a cache of dtype {tensors[0].dtype} cannot be kept on the CPU")
        super().__init__(capacity)
        self._poison = poison
        self.buffers: dict[str, NDArray[Any]] = {}
        for tensor in tensors:
            dims = {d: capacity for d in tensor.shape if isinstance(d, str)}
            self.buffers[tensor.name] = np.zeros(tensor.resolve(dims), _NUMPY[tensor.dtype])
        self._spoil(0)

    @property
    def prefix_is_contiguous(self) -> bool:
        """True if the first rows of a buffer are one piece of memory (layout `rows`)."""
        return self.row_axis == 1

    def _spoil(self, rows: int) -> None:
        if self._poison:
            for buffer in self.buffers.values():
                # Integers have no NaN; the largest one is as far from any sum as they get.
                loud = np.nan if buffer.dtype.kind == "f" else np.iinfo(buffer.dtype).max
                buffer[(slice(None),) * self.row_axis + (slice(rows, None),)] = loud
