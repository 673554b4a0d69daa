"""A turn's phases in a form that a display can draw."""

from __future__ import annotations

from typing import Any

from ttt_runtime.dialogue.timeline import Timeline


def timing_event(timeline: Timeline, first_audio_ms: float | None) -> dict[str, Any]:
    """Return phases with their begin (ms after the turn's) and length, in the order of time.

    Slices of the same phase that follow each other are one.

    Args:
        timeline: a finished turn.
        first_audio_ms: from the end of the user's turn to the first sound sent.
    """
    phases: list[dict[str, Any]] = []
    for piece in timeline.slices:
        begin_ms = (piece.begin_ns - timeline.begin_ns) / 1e6
        if phases and phases[-1]["phase"] == piece.phase:
            phases[-1]["ms"] = round(phases[-1]["ms"] + piece.ms, 3)
            phases[-1]["count"] += 1
            continue
        phases.append(
            {
                "phase": piece.phase,
                "begin_ms": round(begin_ms, 3),
                "ms": round(piece.ms, 3),
                "count": 1,
            }
        )
    return {
        "phases": phases,
        "total_ms": round(timeline.total_ms, 3),
        "turn_end_to_first_audio_ms": None if first_audio_ms is None else round(first_audio_ms, 3),
    }
