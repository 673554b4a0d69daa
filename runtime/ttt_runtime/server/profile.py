"""The running profile: what the latest turns took, and how busy this process is."""

from __future__ import annotations

import resource
from collections import deque
from time import monotonic, process_time, time
from typing import Any, Final

import numpy as np

from ttt_runtime.dialogue.assistant import Reply
from ttt_runtime.dialogue.timeline import PHASES
from ttt_runtime.server.timing import timing_event

_REMEMBERED: Final = 200
_SHOWN: Final = 40


class RunningProfile:
    """Remembers the latest turns."""

    def __init__(self) -> None:
        self._turns: deque[dict[str, Any]] = deque(maxlen=_REMEMBERED)
        self._began, self._cpu_began = monotonic(), process_time()

    def add(self, reply: Reply, first_audio_ms: float | None, status: str) -> None:
        """Take in a finished turn."""
        sums = {phase: round(sum(reply.timeline.phase_ms(phase)), 3) for phase in PHASES}
        self._turns.append(
            {
                "at": round(time(), 3),
                "task": reply.task,
                "status": status,
                "audio_seconds": round(reply.audio_seconds, 3),
                "sums_ms": sums,
                **timing_event(reply.timeline, first_audio_ms),
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Return figures over the remembered turns, and the newest of them."""
        turns = list(self._turns)
        named = {phase: [turn["sums_ms"][phase] for turn in turns] for phase in PHASES}
        first = [turn["turn_end_to_first_audio_ms"] for turn in turns]
        named["turn end to first audio"] = [value for value in first if value is not None]
        named["computing in all"] = [turn["total_ms"] for turn in turns]
        elapsed = monotonic() - self._began
        return {
            "turns": turns[-_SHOWN:],
            "figures": {name: _figures(values) for name, values in named.items() if values},
            "cpu_share": round((process_time() - self._cpu_began) / max(elapsed, 1e-3), 4),
            # ru_maxrss is in KiB on Linux.
            "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            "uptime_seconds": round(elapsed, 1),
        }


def _figures(values: list[float]) -> dict[str, float]:
    p50, p90, p99 = np.percentile(values, (50, 90, 99))
    return {
        "count": len(values),
        "p50_ms": round(float(p50), 2),
        "p90_ms": round(float(p90), 2),
        "p99_ms": round(float(p99), 2),
    }
