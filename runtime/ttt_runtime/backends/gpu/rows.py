"""Hidden rows that stay on the device until somebody on the host wants to see them.

A decoder's hidden rows are mostly handed straight to a head. So `DeviceRows` only remembers which
rows are meant; numpy operations on it (guidance mixes rows) fetch them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import DTypeLike, NDArray

from ttt_ref.errors import TttError
from ttt_runtime.backends.gpu.memory import Block, Memory, read_floats
from ttt_runtime.bundle.graph_spec import DTYPE_BYTES


class HiddenBlock:
    """Where the decoder writes hidden rows [rows, width]; every forward overwrites them."""

    def __init__(self, memory: Memory, rows: int, width: int, dtype: str) -> None:
        self.rows = rows
        self.width = width
        self.dtype = dtype
        self.row_bytes = width * DTYPE_BYTES[dtype]
        self.block: Block = memory.allocate(rows * self.row_bytes)
        self.version = 0  # number of the forward whose rows lie here
        self._fetched = -1

    def address(self, row: int) -> int:
        """Return where a row lies on the device."""
        return self.block.address + row * self.row_bytes

    def fetch(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        """Return rows [N, width] as an array of the host."""
        if self._fetched != self.version:
            self.block.download()
            self._fetched = self.version
        whole = self.block.host.view(np.uint16 if self.row_bytes == 2 * self.width else np.float32)
        stored = whole.reshape(self.rows, self.width)[rows]
        if self.dtype == "float16":
            return stored.view(np.float16)
        return read_floats(stored, self.dtype)


class DeviceRows(NDArrayOperatorsMixin):
    """Some rows of a HiddenBlock, as an array that is fetched when it is looked at.

    Slices and index arrays along the first axis give DeviceRows again; everything else (a number,
    arithmetic, `np.asarray`) gives the host's array. Valid until the next forward.
    """

    def __init__(self, source: HiddenBlock, rows: NDArray[np.intp]) -> None:
        self.source = source
        self.rows = rows
        self._version = source.version

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, width."""
        return (len(self.rows), self.source.width)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice | np.ndarray):
            return DeviceRows(self.source, self.rows[key])
        return np.asarray(self)[key]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        self.check()
        values = self.source.fetch(self.rows)
        return values if dtype is None else values.astype(dtype, copy=False)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        plain = [np.asarray(x) if isinstance(x, DeviceRows) else x for x in inputs]
        return getattr(ufunc, method)(*plain, **options)

    def copy(self) -> NDArray[Any]:
        """Return the rows as an array of the host."""
        return np.asarray(self)

    def check(self) -> None:
        """Refuse rows that a later forward has overwritten."""
        if self._version != self.source.version:
            raise TttError("hidden rows were used after the next forward; copy() them before it")
