"""Counters, gauges and histograms in the text form that Prometheus reads."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable
from typing import Final

from ttt_runtime.dialogue.assistant import Reply
from ttt_runtime.server.profile import RunningProfile

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
# Milliseconds: from a text step to a long answer.
BOUNDS_MS: Final = (1, 2, 5, 10, 20, 50, 100, 150, 200, 300, 500, 750, 1000, 2000, 5000, 10000)

Labels = tuple[tuple[str, str], ...]


class Counter:
    """A number that only grows, by labels. Safe to use from any thread."""

    kind = "counter"

    def __init__(self, name: str, help_text: str) -> None:
        self.name, self.help_text = name, help_text
        self._lock = threading.Lock()
        self._values: dict[Labels, float] = {}

    def add(self, amount: float = 1.0, **labels: str) -> None:
        """Add to the number with these labels."""
        key = tuple(sorted(labels.items()))
        with self._lock:
            self._values[key] = self._values.get(key, 0.0) + amount

    def value(self, **labels: str) -> float:
        """Return the number with these labels."""
        return self._values.get(tuple(sorted(labels.items())), 0.0)

    def lines(self) -> list[str]:
        """Return the samples."""
        with self._lock:
            values = sorted(self._values.items())
        return [f"{self.name}{_labels(key)} {value:g}" for key, value in values or [((), 0.0)]]


class Gauge:
    """A number that is asked for when it is read."""

    kind = "gauge"

    def __init__(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        self.name, self.help_text = name, help_text
        self._read = read

    def lines(self) -> list[str]:
        """Return the sample."""
        return [f"{self.name} {self._read():g}"]


class Histogram:
    """Milliseconds by labels. Safe to use from any thread."""

    kind = "histogram"

    def __init__(self, name: str, help_text: str, bounds_ms: tuple[float, ...] = BOUNDS_MS) -> None:
        self.name, self.help_text = name, help_text
        self._bounds = bounds_ms
        self._lock = threading.Lock()
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}

    def observe(self, milliseconds: float, **labels: str) -> None:
        """Take in one measurement."""
        key = tuple(sorted(labels.items()))
        with self._lock:
            counts = self._counts.setdefault(key, [0] * (len(self._bounds) + 1))
            counts[bisect_left(self._bounds, milliseconds)] += 1
            self._sums[key] = self._sums.get(key, 0.0) + milliseconds

    def count(self, **labels: str) -> int:
        """Return how many measurements have these labels."""
        return sum(self._counts.get(tuple(sorted(labels.items())), ()))

    def lines(self) -> list[str]:
        """Return the samples."""
        with self._lock:
            entries = [(key, list(counts), self._sums[key]) for key, counts in self._counts.items()]
        lines = []
        for key, counts, total in sorted(entries):
            below = 0
            for bound, count in zip((*self._bounds, "+Inf"), counts, strict=True):
                below += count
                labels = _labels((*key, ("le", str(bound))))
                lines.append(f"{self.name}_bucket{labels} {below}")
            lines.append(f"{self.name}_sum{_labels(key)} {total:g}")
            lines.append(f"{self.name}_count{_labels(key)} {below}")
        return lines


class Metrics:
    """Everything that this server counts."""

    def __init__(self) -> None:
        self.turns = Counter("ttt_turns_total", "Turns by task and how they ended.")
        self.interrupts = Counter("ttt_interrupts_total", "Answers cut short, by whom.")
        self.speculation = Counter(
            "ttt_speculation_total", "Answers computed before the turn was over: used or dropped."
        )
        self.underruns = Counter("ttt_underruns_total", "Gaps in the sound of answers.")
        self.refused = Counter("ttt_refused_total", "Requests and connections refused, by reason.")
        self.defects = Counter("ttt_defects_total", "Exceptions that are defects of the server.")
        self.phases = Histogram("ttt_phase_ms", "Milliseconds of a turn by phase.")
        self.first_audio = Histogram(
            "ttt_turn_end_to_first_audio_ms",
            "From the decision that the turn is over to the first audio sent.",
        )
        self.barge_in = Histogram(
            "ttt_barge_in_to_silence_ms", "From detected speech to the last audio sent."
        )
        self.waiting = Histogram("ttt_queue_ms", "Waiting for the engine before a turn begins.")
        self.running = RunningProfile()
        self._gauges: list[Gauge] = []

    def turn_ended(
        self, task: str, status: str, reply: Reply | None, first_audio_ms: float | None = None
    ) -> None:
        """Take in a turn: completed, cancelled or failed; `reply` if it came so far."""
        self.turns.add(task=task, status=status)
        if reply is not None:
            for piece in reply.timeline.slices:
                self.phases.observe(piece.ms, phase=piece.phase)
            self.running.add(reply, first_audio_ms, status)

    def gauge(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Add a number that is read when asked for."""
        self._gauges.append(Gauge(name, help_text, read))

    def text(self) -> str:
        """Return the whole page."""
        lines: list[str] = []
        for metric in (
            *(m for m in vars(self).values() if isinstance(m, Counter | Histogram)),
            *self._gauges,
        ):
            lines += [
                f"# HELP {metric.name} {metric.help_text}",
                f"# TYPE {metric.name} {metric.kind}",
                *metric.lines(),
            ]
        return "\n".join(lines) + "\n"


def _labels(pairs: Labels) -> str:
    if not pairs:
        return ""
    escaped = (
        (name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n"))
        for name, value in pairs
    )
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"
