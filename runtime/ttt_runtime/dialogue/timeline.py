"""What took how long: one record of phases a turn, and its figures.

Terms. TTFA: from the question's last sample being there to the first sample of the answer being
there. RTF: time of computing over seconds of answer (below 1 is faster than speech). TPOT: time
of one text token. All times are wall-clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns

from ttt_runtime.decode.scheduler import Step

# In the order in which a turn meets them.
PHASES = ("encode", "prefill", "text", "block", "commit", "decode")


@dataclass(frozen=True, slots=True)
class Slice:
    """One piece of work: its phase, begin and end (perf_counter_ns) and what it was over."""

    phase: str
    begin_ns: int
    end_ns: int
    detail: str = ""

    @property
    def ms(self) -> float:
        """Duration in milliseconds."""
        return (self.end_ns - self.begin_ns) / 1e6


class Timeline:
    """The slices of one turn, and the moments that count."""

    def __init__(self) -> None:
        self.slices: list[Slice] = []
        self.begin_ns = perf_counter_ns()
        self.first_audio_ns: int | None = None
        self.end_ns: int | None = None
        # Gaps in the sound if it is played from its first sample on; None where nobody counted.
        self.underruns: int | None = None

    def observe(self, step: Step, begin_ns: int, end_ns: int) -> None:
        """Take in a forward of the engine (an `engine.Observer`)."""
        detail = f"rows {step.start}..{step.stop}"
        self.slices.append(Slice(step.state.value, begin_ns, end_ns, detail))

    @contextmanager
    def phase(self, name: str, detail: str = "") -> Iterator[None]:
        """Record the body as one slice."""
        begin_ns = perf_counter_ns()
        yield
        self.slices.append(Slice(name, begin_ns, perf_counter_ns(), detail))

    def mark_first_audio(self) -> None:
        """Record that the first sample of the answer is there (only the first call counts)."""
        if self.first_audio_ns is None:
            self.first_audio_ns = perf_counter_ns()

    def finish(self) -> None:
        """Record the end of the turn."""
        self.end_ns = perf_counter_ns()

    def phase_ms(self, phase: str) -> list[float]:
        """Return the durations of all slices of a phase."""
        return [piece.ms for piece in self.slices if piece.phase == phase]

    def last_ms(self, phase: str) -> float:
        """Return the duration of the newest slice of a phase."""
        return next(piece.ms for piece in reversed(self.slices) if piece.phase == phase)

    @property
    def total_ms(self) -> float:
        """From the question being there to the end of the answer."""
        return ((self.end_ns or perf_counter_ns()) - self.begin_ns) / 1e6

    @property
    def ttfa_ms(self) -> float | None:
        """Time to first audio; None if there was none."""
        if self.first_audio_ns is None:
            return None
        return (self.first_audio_ns - self.begin_ns) / 1e6

    def figures(self, audio_seconds: float) -> dict[str, float | None]:
        """Return the turn's figures: sums and counts of phases, TTFA, TPOT, RTF."""
        figures: dict[str, float | None] = {}
        for phase in PHASES:
            times = self.phase_ms(phase)
            figures[f"{phase}_ms"] = round(sum(times), 3)
            figures[f"{phase}_count"] = len(times)
        text = self.phase_ms("text") + self.phase_ms("commit")
        figures["tpot_ms"] = round(sum(text) / len(text), 3) if text else None
        figures["ttfa_ms"] = None if self.ttfa_ms is None else round(self.ttfa_ms, 3)
        figures["total_ms"] = round(self.total_ms, 3)
        figures["audio_seconds"] = round(audio_seconds, 3)
        figures["underruns"] = self.underruns
        rtf = self.total_ms / 1e3 / audio_seconds if audio_seconds > 0 else None
        figures["rtf"] = None if rtf is None else round(rtf, 4)
        return figures
