"""The KV cache in the kernels' layout."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttt_ref.config import ModelConfig
from ttt_runtime.backends.kv_cache import WrittenRows
from ttt_runtime.backends.native.kernels import Kernels
from ttt_runtime.backends.native.structures import address


class NativeCache(WrittenRows):
    """Keys and values of all layers for up to `capacity` rows; see `kv_cache.WrittenRows`.

    Memory is asked for at once but taken from the system page by page as rows are written.

    Args:
        kernels: who reads and writes it.
        model: shape of the model.
        capacity: rows to keep.
        poison: NaN in all rows not written (tests).
    """

    def __init__(
        self, kernels: Kernels, model: ModelConfig, capacity: int, *, poison: bool = False
    ) -> None:
        self._lanes = kernels.lanes
        self.rows = -(-capacity // kernels.scored) * kernels.scored  # of the buffers
        super().__init__(capacity)
        self._poison = poison
        heads, size = model.num_key_value_heads, model.head_dim
        grouped = (heads, self.rows // kernels.lanes, size, kernels.lanes)
        layers = range(model.num_hidden_layers)
        self._keys = [np.zeros(grouped, np.float32) for _ in layers]
        self._values = [np.zeros((heads, self.rows, size), np.float32) for _ in layers]
        self._addresses = [_addresses(buffers) for buffers in (self._keys, self._values)]
        self.keys, self.values = (ctypes.addressof(a) for a in self._addresses)
        self._spoil(0)

    def _spoil(self, rows: int) -> None:
        if self._poison:
            whole, rest = divmod(rows, self._lanes)
            for keys, values in zip(self._keys, self._values, strict=True):
                keys[:, whole:, :, rest:] = np.nan
                keys[:, whole + 1 :] = np.nan
                values[:, rows:] = np.nan


def _addresses(buffers: list[NDArray[Any]]) -> Any:
    return (ctypes.c_void_p * len(buffers))(*(address(buffer) for buffer in buffers))
