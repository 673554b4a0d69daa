"""Random numbers that depend on a position and a seed, not on how the positions are cut up.

A stream, a window of it and the whole all see the same noise at the same frame or sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

# Standard normal values of positions first .. first + count - 1: float32 [rows, count].
Noise = Callable[[int, int], NDArray[np.float32]]

BLOCK = 1024
HARMONIC_STREAM, FLOW_STREAM, PHASE_STREAM = 0, 1, 2


def _generator(seed: int, stream: int, block: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, (stream << 48) + block]))


class IndexedNoise:
    """Normal noise addressed by position; the last blocks drawn are kept for the next window."""

    def __init__(self, rows: int, seed: int, stream: int) -> None:
        self._rows, self._seed, self._stream = rows, seed, stream
        self._kept: dict[int, NDArray[np.float32]] = {}

    def __call__(self, first: int, count: int) -> NDArray[np.float32]:
        """Return positions first .. first + count - 1: [rows, count]."""
        if count <= 0:
            return np.zeros((self._rows, 0), np.float32)
        low, high = first // BLOCK, (first + count - 1) // BLOCK
        self._kept = {i: self._block(i) for i in range(low, high + 1)}
        whole = np.concatenate(list(self._kept.values()), 1)
        return whole[:, first - low * BLOCK :][:, :count]

    def _block(self, index: int) -> NDArray[np.float32]:
        if index in self._kept:
            return self._kept[index]
        generator = _generator(self._seed, self._stream, index)
        return generator.standard_normal((self._rows, BLOCK), dtype=np.float32)


def start_phases(harmonics: int, seed: int) -> NDArray[np.float64]:
    """Return random start phases in radians [harmonics + 1]; the first is 0."""
    phases = _generator(seed, PHASE_STREAM, 0).uniform(-math.pi, math.pi, harmonics + 1)
    phases[0] = 0.0
    return phases
