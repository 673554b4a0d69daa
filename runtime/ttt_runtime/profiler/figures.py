"""Quantiles and intervals of measured values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 4000


def quantiles(values: Sequence[float]) -> dict[str, float | None]:
    """Return p50, p90 and p99 (None without values)."""
    if not values:
        return {"p50": None, "p90": None, "p99": None}
    p50, p90, p99 = (float(q) for q in np.quantile(np.array(values), [0.5, 0.9, 0.99]))
    return {"p50": round(p50, 4), "p90": round(p90, 4), "p99": round(p99, 4)}


@dataclass(frozen=True)
class Interval:
    """A median with its 95 % bootstrap interval."""

    median: float
    low: float
    high: float

    def rounded(self) -> dict[str, float]:
        """Return the three numbers for a report."""
        return {
            "median": round(self.median, 4),
            "low": round(self.low, 4),
            "high": round(self.high, 4),
        }


def median_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """Return the median of at least one value and the interval that holds it in 95 of 100 draws.

    The values are drawn again with replacement; for pairs, give one value a pair.
    """
    array = np.array(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(0, len(array), (_RESAMPLES, len(array)))
    low, high = np.quantile(np.median(array[draws], axis=1), [0.025, 0.975])
    return Interval(float(np.median(array)), float(low), float(high))
