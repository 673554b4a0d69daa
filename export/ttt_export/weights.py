"""Read checkpoint tensors one at a time, without ever mapping or holding the whole checkpoint.

The header of a safetensors file says where each tensor lies; rows are read with plain file reads.
A memory map would be shorter, but its pages count as resident memory, and a 3B export must fit
into a few GiB.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ttt_ref.bounded import TOKENIZER_VALUES, Unreadable, open_plain, parse_json
from ttt_ref.checkpoint import weight_files
from ttt_ref.errors import CheckpointError
from ttt_ref.weight_names import wrapper_prefix

Float32Array = NDArray[np.float32]

MAX_HEADER_BYTES = 100 * 2**20

_DTYPES: Mapping[str, Any] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F64": np.dtype("<f8"),
}


class WeightSource(Protocol):
    """Where the exporter takes tensors from: a checkpoint, or one with adapters merged in."""

    def names(self) -> list[str]:
        """Return all tensor names."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape; CheckpointError if there is no such tensor."""
        ...

    def rows(self, name: str, start: int, stop: int) -> Float32Array:
        """Return rows start..stop-1 of a tensor as float32."""
        ...


def tensor(source: WeightSource, name: str) -> Float32Array:
    """Return a whole tensor as float32."""
    return source.rows(name, 0, source.shape(name)[0])


def row_chunks(
    source: WeightSource, name: str, start: int, stop: int, chunk_rows: int = 4096
) -> Iterator[Float32Array]:
    """Yield rows start..stop-1 of a tensor in pieces of at most `chunk_rows` rows."""
    for first in range(start, stop, chunk_rows):
        yield source.rows(name, first, min(first + chunk_rows, stop))


@dataclass(frozen=True)
class _Entry:
    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int


class SafetensorsTensors:
    """The tensors of some safetensors files.

    Raises CheckpointError for a truncated file and element types that are no floats.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._entries: dict[str, _Entry] = {}
        for path in files:
            self._entries.update(_read_header(path))

    def names(self) -> list[str]:
        """Return all tensor names."""
        return list(self._entries)

    def _entry(self, name: str) -> _Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise CheckpointError(
                f"the checkpoint has no tensor {name}; it has {len(self._entries)} others"
            ) from None

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return self._entry(name).shape

    def stored_bytes(self) -> int:
        """Return the size of all tensors as stored."""
        return sum(math.prod(e.shape) * e.dtype.itemsize for e in self._entries.values())

    def rows(self, name: str, start: int, stop: int) -> Float32Array:
        """Return rows start..stop-1 of a tensor as float32."""
        entry = self._entry(name)
        width = math.prod(entry.shape[1:])
        count = (stop - start) * width
        with entry.path.open("rb") as file:
            file.seek(entry.offset + start * width * entry.dtype.itemsize)
            data = file.read(count * entry.dtype.itemsize)
        if len(data) != count * entry.dtype.itemsize:
            raise CheckpointError(f"{entry.path} became shorter while reading {name}")
        flat = np.frombuffer(data, dtype=entry.dtype)
        return flat.astype(np.float32).reshape((stop - start, *entry.shape[1:]))


class CheckpointWeights(SafetensorsTensors):
    """The tensors of a checkpoint folder: one safetensors file, or shards with an index."""

    def __init__(self, folder: Path) -> None:
        super().__init__(weight_files(folder))
        self.prefix = wrapper_prefix(self._entries, folder)  # of a wrapper; empty: there is none
        self._entries = {
            name.removeprefix(self.prefix): entry for name, entry in self._entries.items()
        }


def _read_header(path: Path) -> Iterator[tuple[str, _Entry]]:
    def damaged(why: str) -> CheckpointError:
        return CheckpointError(f"{path} is no whole safetensors file ({why}); download it again")

    with open_plain(path, CheckpointError) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        if len(start) < 8:
            raise damaged(f"it has {size} bytes")
        (length,) = struct.unpack("<Q", start)
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise damaged(f"its header should have {length} bytes, the file has {size}")
        try:
            header = parse_json(file.read(length), TOKENIZER_VALUES)
        except Unreadable as reason:
            raise damaged(f"its header is not JSON: {reason}") from None
    if not isinstance(header, dict):
        raise damaged("its header is not a table")
    for name, info in header.items():
        if name == "__metadata__":
            continue
        try:
            shape = tuple(int(d) for d in info["shape"])
            first, last = (int(x) for x in info["data_offsets"])
            kind = str(info["dtype"])
        except (KeyError, TypeError, ValueError):
            raise damaged(f"the entry of {name} is not understood") from None
        dtype = _DTYPES.get(kind)
        if dtype is None:
            raise CheckpointError(
                f"{path}: tensor {name} has dtype {kind}; expected one of {', '.join(_DTYPES)}"
            )
        if last - first != math.prod(shape) * dtype.itemsize:
            raise damaged(f"tensor {name} has the wrong number of bytes")
        if first < 0 or 8 + length + last > size:
            raise damaged(f"tensor {name} ends at byte {8 + length + last}, the file at {size}")
        yield name, _Entry(path, dtype, shape, 8 + length + first)
