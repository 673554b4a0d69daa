"""One comparison of a written graph with its truth, and the error that lists them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ttt_ref.errors import ExportError


@dataclass(frozen=True)
class Check:
    """What was compared and how far apart it was."""

    name: str
    max_diff: float
    mean_diff: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """True if the difference is a number within the tolerance."""
        return self.max_diff <= self.tolerance  # NaN compares false

    def line(self) -> str:
        """Return the comparison as text."""
        verdict = "ok" if self.passed else "FAILED"
        return (
            f"{self.name}: max diff {self.max_diff:.2e} (tolerance {self.tolerance:.1e}) {verdict}"
        )


class ValidationError(ExportError):
    """A written graph is not what it must be; `checks` has every comparison."""

    def __init__(self, checks: Sequence[Check]) -> None:
        self.checks = tuple(checks)
        failed = sum(not check.passed for check in checks)
        advice = ""
        if any(math.isnan(check.max_diff) for check in checks):
            advice = "; results are NaN (in float16 activations overflow: choose -p bf16 or fp32)"
        lines = "; ".join(check.line() for check in sorted(checks, key=lambda check: check.passed))
        super().__init__(f"validation failed in {failed} of {len(checks)} checks{advice}: {lines}")
