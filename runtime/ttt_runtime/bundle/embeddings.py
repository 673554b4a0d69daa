"""The embedding table, mapped from its file: only the rows that are used take memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttt_runtime.bundle.folder import Bundle

_DTYPES = {"float32": "<f4", "float16": "<f2", "int8": "i1"}


class EmbeddingTable:
    """Rows [V, hidden] of a raw file; `int8` rows are multiplied by one float32 scale each."""

    def __init__(
        self, path: Path, dtype: str, rows: int, columns: int, scales_path: Path | None = None
    ) -> None:
        self._table: NDArray[Any] = np.memmap(path, _DTYPES[dtype], "r", shape=(rows, columns))
        self._scales: NDArray[np.float32] | None = None
        if scales_path is not None:
            self._scales = np.fromfile(scales_path, "<f4").reshape(rows, 1)

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> EmbeddingTable:
        """Map the bundle's table."""
        entry = bundle.config.embeddings
        scales = None if entry.scales_file is None else bundle.file(entry.scales_file)
        return cls(bundle.file(entry.file), entry.dtype, entry.rows, entry.columns, scales)

    @property
    def in_8_bit(self) -> tuple[NDArray[np.int8], NDArray[np.float32]] | None:
        """Codes [V, hidden] and scales [V, 1] of an int8 table; None for others."""
        return None if self._scales is None else (self._table, self._scales)

    def gather(self, ids: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """Write the rows of `ids` [Q] to `out` [Q, hidden]. Ids must lie inside the table."""
        if self._scales is not None:
            np.multiply(self._table[ids], self._scales[ids], out=out)
        elif self._table.dtype == out.dtype:
            # mode="clip" lets numpy write to `out` without a buffer; ids were checked before.
            np.take(self._table, ids, axis=0, out=out, mode="clip")
        else:
            out[...] = self._table[ids]
