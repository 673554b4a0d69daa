"""Device memory as the runner sees it: blocks with an address, and what lies where in them.

Inputs of a forward share one block, so that they cross to the device in one copy; so do the small
outputs of a head on their way back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ttt_runtime.bundle.graph_spec import TensorSpec

ALIGNMENT: Final = 256  # of every tensor in a block; what CUDA's own allocator gives

# How numpy holds an element type; bfloat16, which it does not know, by its bits.
NUMPY: Final[Mapping[str, Any]] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "int64": np.int64,
    "int32": np.int32,
    "int8": np.int8,
    "uint8": np.uint8,
    "bool": np.bool_,
}


class Block(Protocol):
    """A piece of device memory.

    `host` is its copy on the host, uint8 [size], made when first asked for. `upload` sends the
    copy to the device, `download` fetches it; after `download` all earlier work is done.
    """

    @property
    def address(self) -> int:
        """Where it begins on the device."""

    @property
    def host(self) -> NDArray[np.uint8]:
        """The copy on the host."""

    def upload(self) -> None:
        """Send the host's copy to the device."""

    def download(self) -> None:
        """Fetch the host's copy from the device, after everything before it."""


class Memory(Protocol):
    """Gives out blocks of zeros."""

    def allocate(self, size: int) -> Block:
        """Return a block of `size` bytes; it lives as long as the object does."""

    def synchronize(self) -> None:
        """Wait until the device has done what was given to it."""


class Packed:
    """Several tensors in one block.

    Args:
        memory: where to take the block from.
        tensors: what to pack.
        dims: number of every named dimension.
    """

    def __init__(
        self, memory: Memory, tensors: Iterable[TensorSpec], dims: Mapping[str, int]
    ) -> None:
        places: list[tuple[TensorSpec, int]] = []
        size = 0
        for tensor in tensors:
            places.append((tensor, size))
            size += -(-tensor.bytes(dims) // ALIGNMENT) * ALIGNMENT
        self.block = memory.allocate(max(size, ALIGNMENT))
        self.addresses = {t.name: self.block.address + offset for t, offset in places}
        self.arrays: dict[str, NDArray[Any]] = {
            t.name: self.block.host[offset : offset + t.bytes(dims)]
            .view(NUMPY[t.dtype])
            .reshape(t.resolve(dims))
            for t, offset in places
        }


def to_bfloat16(values: NDArray[np.floating], out: NDArray[np.uint16]) -> None:
    """Write float values to `out` as bfloat16 bits, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    np.right_shift(bits + np.uint32(0x7FFF) + odd, 16, out=out, casting="unsafe")


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return bfloat16 bits as float32; exact."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def write_floats(values: NDArray[np.floating], out: NDArray[Any], dtype: str) -> None:
    """Write float values to an array that holds elements of `dtype`."""
    if dtype == "bfloat16":
        to_bfloat16(values, out)
    else:
        out[...] = values


def read_floats(stored: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Return a copy of stored elements as floats that numpy can compute with."""
    return from_bfloat16(stored) if dtype == "bfloat16" else stored.copy()
