"""Turns as a trace in Chrome's format: opens in Perfetto (ui.perfetto.dev) and chrome://tracing.

One process with a track for whole turns, one for the model and one for the codec.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ttt_ref.outputs import write_whole
from ttt_runtime.profiler.bench import Turn

PROCESS: Final = 1
TRACKS: Final = {0: "turns", 1: "model", 2: "codec"}
_CODEC: Final = ("encode", "decode")


def trace_events(turns: Sequence[tuple[str, Turn]], process_name: str) -> list[dict[str, Any]]:
    """Return the events of named turns; times in microseconds from the first turn's begin."""
    zero_ns = min((turn.timeline.begin_ns for _, turn in turns), default=0)

    def at(time_ns: int) -> float:
        return round((time_ns - zero_ns) / 1e3, 3)

    events: list[dict[str, Any]] = [
        _event("process_name", "M", 0, args={"name": process_name}),
        *(_event("thread_name", "M", t, args={"name": name}) for t, name in TRACKS.items()),
        *(_event("thread_sort_index", "M", t, args={"sort_index": t}) for t in TRACKS),
    ]
    for name, turn in turns:
        timeline = turn.timeline
        end_ns = timeline.end_ns or timeline.begin_ns
        events.append(
            _event(
                name,
                "X",
                0,
                cat="turn",
                ts=at(timeline.begin_ns),
                dur=round((end_ns - timeline.begin_ns) / 1e3, 3),
                args=turn.figures(),
            )
        )
        events += [
            _event(
                piece.phase,
                "X",
                2 if piece.phase in _CODEC else 1,
                cat="ttt",
                ts=at(piece.begin_ns),
                dur=round((piece.end_ns - piece.begin_ns) / 1e3, 3),
                args={"detail": piece.detail},
            )
            for piece in timeline.slices
        ]
        if timeline.first_audio_ns is not None:
            first = at(timeline.first_audio_ns)
            events.append(_event("first audio", "i", 0, cat="turn", ts=first, s="t"))
    return events


def _event(name: str, kind: str, track: int, **fields: Any) -> dict[str, Any]:
    return {"name": name, "ph": kind, "pid": PROCESS, "tid": track, **fields}


def write_trace(turns: Sequence[tuple[str, Turn]], process_name: str, path: Path) -> None:
    """Write the trace whole or not at all."""
    document = {"traceEvents": trace_events(turns, process_name), "displayTimeUnit": "ms"}
    write_whole(path, json.dumps(document).encode())
