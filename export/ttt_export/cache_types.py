"""Keep K and V narrower than the graph computes: float16, or int8 with calibrated scales.

What a forward adds is narrowed before it is written into the cache, and the rows that are bound
are widened when attention reads them. The scales of int8 are constants, one a channel: no state
beside the cache itself, and a row never depends on others. The two channels that the rotary
embedding turns into each other share their scale, taken from the length of the pair, so that it
holds at every position whatever positions calibration saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ttt_export.linear import NUMPY_FLOATS, cast
from ttt_export.reference_stream import StreamedReference
from ttt_export.weights import Float32Array, WeightSource
from ttt_export.writer import GraphWriter
from ttt_ref.config import ModelConfig

IntArray = NDArray[np.int64]

# Sequences that calibration did not see may go a little beyond; what goes further saturates.
HEADROOM = 1.1
LARGEST_CODE = 127


@dataclass(frozen=True)
class CachePeaks:
    """Largest magnitudes of one layer's keys and values, each [kv_heads * head_dim]."""

    keys: Float32Array
    values: Float32Array


def measure_peaks(
    reference: StreamedReference,
    config: ModelConfig,
    source: WeightSource,
    sequences: Sequence[IntArray],
) -> list[CachePeaks]:
    """Carry sequences through the reference and return what each layer would cache at most."""
    width = config.num_key_value_heads * config.head_dim
    states = reference.carry(sequences)
    peaks = []
    for index in range(config.num_hidden_layers):
        largest = {"k_proj": np.zeros(width, np.float32), "v_proj": np.zeros(width, np.float32)}

        def observe(part: str, rows: Tensor, largest: dict[str, Float32Array] = largest) -> None:
            values = rows.numpy()
            sizes = _pair_lengths(values, config) if part == "k_proj" else np.abs(values)
            np.maximum(largest[part], sizes.max(axis=0), out=largest[part])

        states.advance(index, source, observe)
        peaks.append(CachePeaks(largest["k_proj"], largest["v_proj"]))
    return peaks


def _pair_lengths(keys: Float32Array, config: ModelConfig) -> Float32Array:
    """Return for each channel of keys [L, kv * D] the length of the pair that it turns in."""
    halves = keys.reshape(len(keys), config.num_key_value_heads, 2, config.head_dim // 2)
    length = np.sqrt(np.square(halves).sum(axis=2, keepdims=True))
    spread: Float32Array = np.broadcast_to(length, halves.shape).reshape(keys.shape)
    return spread


class CacheStore:
    """Emits what lies between new rows [1, Q, kv * D], the cache, and what attention reads.

    Args:
        writer: graph under construction.
        compute: float type of the graph.
        stored: type of the cache.
        peaks: of every layer, for int8.
    """

    def __init__(
        self,
        writer: GraphWriter,
        compute: str,
        stored: str,
        peaks: Sequence[CachePeaks] | None,
    ) -> None:
        assert stored != "int8" or peaks is not None, "an int8 cache needs calibrated scales"
        self._writer = writer
        self._compute = compute
        self._stored = stored
        self._peaks = peaks

    def narrow(self, rows: str, kind: str, index: int) -> str:
        """Return new rows in the cache's type; `kind` is k or v."""
        if self._stored == self._compute:
            return rows
        if self._stored != "int8":
            return cast(self._writer, rows, f"{rows}.narrow", self._stored)
        scaling = self._scaling(kind, index)
        return self._writer.node("QuantizeLinear", [rows, *scaling], f"{rows}.narrow", axis=2)

    def widen(self, cache: str, kind: str, index: int) -> str:
        """Return the cache `present_..` as attention reads it."""
        if self._stored == self._compute:
            return cache
        if self._stored != "int8":
            return cast(self._writer, cache, f"{cache}.wide", self._compute)
        scaling = self._scaling(kind, index)
        return self._writer.node("DequantizeLinear", [cache, *scaling], f"{cache}.wide", axis=2)

    def _scaling(self, kind: str, index: int) -> list[str]:
        assert self._peaks is not None
        peaks = self._peaks[index]
        sizes = np.maximum(peaks.keys if kind == "k" else peaks.values, 1e-6)
        scales: NDArray[Any] = (sizes * (HEADROOM / LARGEST_CODE)).astype(
            NUMPY_FLOATS[self._compute]
        )
        name = f"layers.{index}.attn.cache_{kind}"
        return [
            self._writer.constant(f"{name}.scales", scales),
            self._writer.constant(f"{name}.zeros", np.zeros(len(scales), np.int8)),
        ]
