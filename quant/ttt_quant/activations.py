"""What calibration remembers of a matrix's inputs."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttt_quant.scheme import Float32Array

# Share of the mean diagonal that is added before the factorization, as GPTQ's authors do.
DAMPING = 0.01
FLOAT64_WIDTH = 4096


class Activations:
    """Second moments and mean magnitudes of the rows x [K] that a matrix W [K, N] receives.

    Args:
        width: K.
        peak_only: keep nothing but the largest magnitude; of a wide matrix that saves K x K floats.
    """

    def __init__(self, width: int, peak_only: bool = False) -> None:
        self.count = 0
        self.peak = 0.0  # largest |x| seen
        self._peak_only = peak_only
        kept = 0 if peak_only else width
        self._moments: NDArray[np.float32] = np.zeros((kept, kept), np.float32)
        self._magnitudes: NDArray[np.float64] = np.zeros(width, np.float64)

    def add(self, rows: Float32Array) -> None:
        """Take in rows [L, K]."""
        self.peak = max(self.peak, float(np.abs(rows).max(initial=0.0)))
        if not self._peak_only:
            self._moments += rows.T @ rows
        self._magnitudes += np.abs(rows).sum(axis=0)
        self.count += len(rows)

    def rescale(self, factor: Float32Array) -> None:
        """Multiply every row seen by `factor` [K], as if the inputs had been made so."""
        self._moments *= factor[:, None] * factor[None, :]
        self._magnitudes *= factor
        self.__dict__.pop("inverse_factor", None)

    @property
    def mean_magnitude(self) -> Float32Array:
        """Mean of |x| for each input channel, [K]."""
        return (self._magnitudes / max(self.count, 1)).astype(np.float32)

    @property
    def moments(self) -> Float32Array:
        """Mean of x xT, [K, K]."""
        return self._moments / np.float32(max(self.count, 1))

    @cached_property
    def inverse_factor(self) -> Float32Array:
        """Upper triangular U [K, K] with UT U = (H + damping)^-1, H the second moments."""
        # Twice float64 of a 3B model's widest matrix would be 2 GiB: the damping carries float32.
        wide = len(self._moments) > FLOAT64_WIDTH
        moments: NDArray[np.floating[Any]] = self.moments.astype(np.float32 if wide else np.float64)
        dead = np.diag(moments) == 0
        moments[dead, dead] = 1.0
        diagonal = np.diag_indices_from(moments)
        moments[diagonal] = moments[diagonal] + DAMPING * moments[diagonal].mean()
        factor: Float32Array = np.linalg.cholesky(np.linalg.inv(moments)).T.astype(np.float32)
        return factor
