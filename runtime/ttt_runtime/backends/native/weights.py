"""Weights in the kernels' layout: read from a bundle's graphs, packed into one piece of memory."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ttt_ref.config import ModelConfig
from ttt_ref.errors import TttError
from ttt_runtime.backends.native.graph import (
    GroupedGraph,
    NotNativeError,
    StoredLayer,
    StoredMatrix,
)
from ttt_runtime.backends.native.kernels import Kernels
from ttt_runtime.backends.native.structures import Layer, Matrix, Model, Stored, Table, address
from ttt_runtime.bundle.embeddings import EmbeddingTable

_HUGE_PAGE: Final = 2 * 2**20
_ALIGNED: Final = 64


def check_matrix(kernels: Kernels, matrix: StoredMatrix) -> None:
    """Refuse a matrix whose blocks the kernels cannot walk in whole vectors."""
    if matrix.block % kernels.lanes or matrix.inputs % matrix.block:
        raise NotNativeError(
            f"a product of {matrix.inputs} inputs in blocks of {matrix.block}; the kernels need "
            f"multiples of {kernels.lanes}"
        )


def check_model(kernels: Kernels, model: ModelConfig) -> None:
    """Refuse a shape that the kernels cannot walk in whole vectors."""
    sizes = {
        "hidden": model.hidden_size,
        "intermediate": model.intermediate_size,
        "head": model.head_dim,
    }
    for name, size in sizes.items():
        if size % kernels.lanes:
            raise NotNativeError(
                f"{name} size {size}; the kernels need a multiple of {kernels.lanes}"
            )


class Arena:
    """One piece of memory for many matrices, in huge pages where the system gives them.

    A text step reads all weights once, front to back: with pages of 4 KB it spends a twentieth of
    its time looking up where they lie.

    Args:
        size: bytes.
    """

    def __init__(self, size: int) -> None:
        # Private: memory that processes could share gets no huge pages by default.
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        try:
            self._map = mmap.mmap(-1, size + _HUGE_PAGE, flags=private)
        except OSError as error:
            raise TttError(
                f"{size / 2**20:.0f} MiB for a bundle's weights were refused ({error.strerror}); "
                "free memory, or choose a smaller precision"
            ) from None
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a system without them: slower by that twentieth
                self._map.madvise(mmap.MADV_HUGEPAGE)
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._at = -(-address(self._bytes) // _HUGE_PAGE) * _HUGE_PAGE
        self._end = self._at + size

    def take(self, size: int) -> int:
        """Return the address of the next `size` bytes."""
        at = self._at
        self._at += -(-size // _ALIGNED) * _ALIGNED
        assert self._at <= self._end
        return at


class _Packer:
    """Turns stored matrices into packed ones."""

    def __init__(self, kernels: Kernels, keep: list[Any]) -> None:
        self._kernels = kernels
        self._keep = keep

    def size(self, stored: StoredMatrix) -> int:
        check_matrix(self._kernels, stored)
        needed = self._kernels.packed_bytes(self._described(stored))
        return -(-needed // _ALIGNED) * _ALIGNED

    def pack(self, stored: StoredMatrix, arena: Arena) -> Matrix:
        matrix = self._described(stored)
        matrix.panels = arena.take(self._kernels.packed_bytes(matrix))
        if stored.bias is not None:
            matrix.bias = address(self.kept(stored.bias))
        # A file may lay floats at any byte; what C reads is aligned.
        codes, scales = (
            np.require(a, requirements=("C", "A")) for a in (stored.codes, stored.scales)
        )
        zeros = None if stored.zeros is None else np.require(stored.zeros, requirements=("C", "A"))
        origin = Stored(
            address(codes),
            address(scales),
            None if zeros is None else address(zeros),
            int(stored.by_rows),
        )
        self._kernels.pack(matrix, origin, matrix.panels)
        return matrix

    def kept(self, vector: NDArray[Any]) -> NDArray[np.float32]:
        """Copy a vector out of its file; the copy lives as long as the weights."""
        copy = np.array(vector, np.float32)
        self._keep.append(copy)
        return copy

    @staticmethod
    def _described(stored: StoredMatrix) -> Matrix:
        return Matrix(
            None,
            None,
            stored.inputs,
            stored.outputs,
            stored.bits,
            stored.block,
            int(stored.zeros is not None),
            int(stored.gated),
        )


class DecoderWeights:
    """A decoder, packed.

    Args:
        kernels: what packs it.
        graph: where it lies.
        config: shape of the model.
        positions: rows of rotary angles to keep.
        embeddings: the model's table; must outlive the weights.

    Attributes:
        model: what `Kernels.forward` takes.
    """

    def __init__(
        self,
        kernels: Kernels,
        graph: GroupedGraph,
        config: ModelConfig,
        positions: int,
        embeddings: EmbeddingTable,
    ) -> None:
        check_model(kernels, config)
        keep: list[Any] = []
        packer = _Packer(kernels, keep)
        stored = list(graph.layers())  # maps the files; nothing is read yet
        assert graph.norm is not None
        arena = Arena(sum(packer.size(m) for layer in stored for m in _matrices(layer)))
        layers = (Layer * len(stored))()
        stored.reverse()
        for packed in layers:
            layer = stored.pop()  # with the last of its matrices goes the mapping of the file
            packed.qkv, packed.out, packed.gate_up, packed.down = (
                packer.pack(matrix, arena) for matrix in _matrices(layer)
            )
            packed.attention_norm = address(packer.kept(layer.attention_norm))
            packed.mlp_norm = address(packer.kept(layer.mlp_norm))
        self.model = Model(
            len(layers),
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
            config.intermediate_size,
            layers,
            address(packer.kept(graph.norm)),
            config.rms_norm_eps,
            positions,
            address(packer.kept(graph.cos[:positions])),
            address(packer.kept(graph.sin[:positions])),
            _table(embeddings, config.vocab_size),
        )
        self._keep = (keep, arena, layers, embeddings)


def _aligned(array: NDArray[Any]) -> NDArray[Any]:
    return np.require(array, requirements=("C", "A"))


def _table(embeddings: EmbeddingTable, rows: int) -> Table:
    table = embeddings.in_8_bit
    if table is None:
        return Table(rows)
    codes, scales = table
    return Table(rows, address(codes), address(scales))


class HeadWeights:
    """A head, packed.

    Attributes:
        matrix: what `Kernels.product` takes.
    """

    def __init__(self, kernels: Kernels, stored: StoredMatrix) -> None:
        keep: list[Any] = []
        packer = _Packer(kernels, keep)
        arena = Arena(packer.size(stored))
        self.matrix = packer.pack(stored, arena)
        self._keep = (keep, arena)


def _matrices(layer: StoredLayer) -> Sequence[StoredMatrix]:
    return layer.qkv, layer.out, layer.gate_up, layer.down
