"""The learning rate as a pure function of the step and of the training time so far."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ttt_ref.train.config import ScheduleSection


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up by steps, then a cosine down to `min_lr_ratio` of the peak.

    Stateless: a resumed run needs only the step and the elapsed seconds, both of which stand in
    the checkpoint. With a limit in minutes the cosine follows the clock, so that a run of unknown
    speed still ends with its learning rate at the bottom.
    """

    peak: float
    section: ScheduleSection

    def progress(self, step: int, elapsed_s: float) -> float:
        """Share of the run that is over, 0 to 1; the further of steps and time counts."""
        share = 0.0
        if self.section.max_steps > 0:
            warmup = min(self.section.warmup_steps, self.section.max_steps - 1)
            share = max(0, step - warmup) / (self.section.max_steps - warmup)
        if self.section.max_minutes > 0:
            share = max(share, elapsed_s / (60.0 * self.section.max_minutes))
        return min(1.0, share)

    def rate(self, step: int, elapsed_s: float) -> float:
        """Learning rate of the step that is about to run (`step` counts from 0)."""
        warm = min(1.0, (step + 1) / max(1, self.section.warmup_steps))
        low = self.section.min_lr_ratio
        cosine = 0.5 * (1.0 + math.cos(math.pi * self.progress(step, elapsed_s)))
        return self.peak * warm * (low + (1.0 - low) * cosine)

    def finished(self, step: int, elapsed_s: float) -> bool:
        """Whether the run is over before `step` begins."""
        by_steps = 0 < self.section.max_steps <= step
        return by_steps or 0 < 60.0 * self.section.max_minutes <= elapsed_s
