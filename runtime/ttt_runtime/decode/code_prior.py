"""Prior-calibrated confidence: which positions to reveal, without a bias for frequent codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ttt_ref.config import TokenLayout
from ttt_ref.errors import ConfigError
from ttt_runtime.backends.base import Floats, Ids
from ttt_runtime.decode.approximations import Approximations

Score = Callable[[Ids, Floats], NDArray[np.floating]]


class CodePrior:
    """Log prior of each code relative to all codes alike; 0 for an id that is no code.

    Args:
        layout: which ids are codes.
        weight: factor of the log prior.
        table: a positive weight for each code; None counts the codes noted (add-one smoothing, so
            that the beginning is uncalibrated).
    """

    def __init__(self, layout: TokenLayout, weight: float, table: Sequence[float] | None) -> None:
        if table is not None and len(table) != layout.num_codes:
            raise ConfigError(
                f"the prior table has {len(table)} weights; this model has {layout.num_codes} codes"
            )
        self._offset = layout.code_offset
        self._codes = layout.num_codes
        self._weight = weight
        self._runs = table is None
        start = np.ones(self._codes) if table is None else np.asarray(table, dtype=np.float64)
        self._counts: NDArray[np.float64] = start

    @classmethod
    def from_options(cls, options: Approximations, layout: TokenLayout) -> CodePrior | None:
        """Return the prior that the options ask for; ConfigError if the table does not fit."""
        if options.prior == "off":
            return None
        table = options.prior_table if options.prior == "table" else None
        return cls(layout, options.prior_weight, table)

    def score(self, ids: Ids, confidence: Floats) -> NDArray[np.floating]:
        """Return log confidence minus the weighted log prior [N] of the chosen ids [N]."""
        codes = np.asarray(ids) - self._offset
        is_code = (codes >= 0) & (codes < self._codes)
        share = self._counts[np.where(is_code, codes, 0)] * self._codes / self._counts.sum()
        prior = np.where(is_code, np.log(share), 0.0)
        tiny = np.finfo(np.float32).tiny
        scores: NDArray[np.floating] = np.log(np.maximum(confidence, tiny)) - self._weight * prior
        return scores

    def note(self, ids: Sequence[int]) -> None:
        """Count revealed ids; a table stays as it is."""
        if self._runs:
            for token in ids:
                if 0 <= token - self._offset < self._codes:
                    self._counts[token - self._offset] += 1
