"""A head on the kernels."""

from __future__ import annotations

from ctypes import pointer

import numpy as np
from numpy.typing import NDArray

from ttt_runtime.backends.base import Floats, HeadBest
from ttt_runtime.backends.native.kernels import Kernels
from ttt_runtime.backends.native.structures import Head, address
from ttt_runtime.backends.native.weights import HeadWeights
from ttt_runtime.backends.ort.heads import FORBIDDEN


class NativeHead:
    """See `two_heads.Head`.

    Args:
        kernels: what computes.
        weights: the head's matrix.
        first_id: token id of its first row.
        end_row: row of `<|im_end|>`, or None where it is in another head.
    """

    def __init__(
        self, kernels: Kernels, weights: HeadWeights, first_id: int, end_row: int | None
    ) -> None:
        self._kernels = kernels
        self._weights = weights
        self._first_id = first_id
        self._end_row = -1 if end_row is None else end_row
        self._call = Head(matrix=pointer(weights.matrix), forbidden_logit=FORBIDDEN)
        self._grow(1)

    def best(self, hidden: Floats, *, forbid_end: bool = False) -> HeadBest:
        """See `Head.best`."""
        rows = len(hidden)

        def sum_exp() -> Floats:
            with self._kernels.lock:
                self._kernels.sum_up(self._call)
                return self._sums[:rows].copy()

        with self._kernels.lock:
            self._choose(hidden, forbid_end)
            ids, best = self._columns[:rows] + self._first_id, self._best[:rows].copy()
        return HeadBest(ids, best, sum_exp)

    def logits(self, hidden: Floats, *, forbid_end: bool = False) -> Floats:
        """See `Head.logits`."""
        with self._kernels.lock:
            self._choose(hidden, forbid_end)
            return self._logits[: len(hidden)]

    def _choose(self, hidden: Floats, forbid_end: bool) -> None:
        rows, call = len(hidden), self._call
        if rows > len(self._logits):
            self._grow(rows)
        held = np.ascontiguousarray(hidden, np.float32)
        call.rows, call.x = rows, address(held)
        call.forbidden = self._end_row if forbid_end else -1
        self._kernels.choose(call)

    def _grow(self, rows: int) -> None:
        call = self._call
        self._logits: Floats = np.zeros((rows, self._weights.matrix.outputs), np.float32)
        self._columns: NDArray[np.int64] = np.zeros(rows, np.int64)
        self._best: Floats = np.zeros(rows, np.float32)
        self._sums: Floats = np.zeros(rows, np.float32)
        call.logits, call.columns = address(self._logits), address(self._columns)
        call.best, call.sums = address(self._best), address(self._sums)
