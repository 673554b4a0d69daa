"""Random numbers that depend on a position and a seed, not on how the positions are cut up.

A stream, a window of it and the whole all see the same noise at the same frame or sample. The
numbers come from NumPy so that the runtime, which has no torch, draws the very same.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# Standard normal values of positions first .. first + count - 1: float32 [rows, count].
Noise = Callable[[int, int], Tensor]

BLOCK = 1024
HARMONIC_STREAM, FLOW_STREAM, PHASE_STREAM = 0, 1, 2


def _generator(seed: int, stream: int, block: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, (stream << 48) + block]))


def indexed_noise(rows: int, seed: int, stream: int) -> Noise:
    """Return normal noise addressed by position."""

    def noise(first: int, count: int) -> Tensor:
        if count <= 0:
            return torch.zeros(rows, 0)
        low, high = first // BLOCK, (first + count - 1) // BLOCK
        parts = [
            _generator(seed, stream, index).standard_normal((rows, BLOCK), dtype=np.float32)
            for index in range(low, high + 1)
        ]
        whole = torch.from_numpy(np.concatenate(parts, 1))
        return whole[:, first - low * BLOCK :][:, :count]

    return noise


def no_noise(rows: int) -> Noise:
    """Return noise that is zero."""
    return lambda first, count: torch.zeros(rows, max(count, 0))


def start_phases(harmonics: int, seed: int) -> Tensor:
    """Return random start phases in radians, float64 [harmonics + 1]; the first is 0."""
    phases = _generator(seed, PHASE_STREAM, 0).uniform(-math.pi, math.pi, harmonics + 1)
    phases[0] = 0.0
    return torch.from_numpy(phases)
