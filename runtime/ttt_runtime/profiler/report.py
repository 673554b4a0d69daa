"""Figures of a profile as a document, and the document as Markdown, CSV or a trace."""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ttt_runtime.profiler.measure import Profile, Turn
from ttt_runtime.timing import PHASES

DEFINITIONS = {
    "ttfa_ms": "from the question's last sample to the answer's first sample (or codes)",
    "tpot_ms": "one text token, the forward that commits a span included",
    "rtf": "time of the whole turn / seconds of answer; below 1 is faster than speech",
}


def quantiles(values: Sequence[float]) -> dict[str, float | None]:
    """Return p50, p90 and p99 (None without values)."""
    if not values:
        return {"p50": None, "p90": None, "p99": None}
    p50, p90, p99 = (float(q) for q in np.quantile(np.array(values), [0.5, 0.9, 0.99]))
    return {"p50": round(p50, 3), "p90": round(p90, 3), "p99": round(p99, 3)}


def document(profile: Profile) -> dict[str, Any]:
    """Return everything measured as one JSON document."""
    options, bundle = profile.options, profile.bundle.config
    warm = profile.warm
    totals = {phase: [sum(t.timeline.phase_ms(phase)) for t in warm] for phase in PHASES}
    everything = sum(sum(values) for values in totals.values()) or 1.0
    phases = {
        phase: {
            "count": round(
                sum(len(t.timeline.phase_ms(phase)) for t in warm) / max(len(warm), 1), 2
            ),
            **quantiles([ms for t in warm for ms in t.timeline.phase_ms(phase)]),
            "share": round(sum(totals[phase]) / everything, 4),
        }
        for phase in PHASES
    }
    return {
        "bundle": bundle.name,
        "precision": bundle.precision,
        "engine": bundle.engine,
        "device": options.device,
        "exactness": options.exactness,
        "fast": None if options.fast is None else asdict(options.fast),
        "workload": "question" if options.question else "scripted",
        "shape": vars(options.shape),
        "generation": profile.config.to_dict(),
        "repeats": len(warm),
        "load_ms": round(profile.load_ms, 3),
        "cold": _turn(profile.cold),
        "phases_ms": phases,
        "turn": {
            name: quantiles([v for t in warm if (v := _turn(t)[name]) is not None])
            for name in ("ttfa_ms", "tpot_ms", "total_ms", "rtf")
        },
        "audio_seconds": _turn(warm[-1] if warm else profile.cold)["audio_seconds"],
        "rss_loaded_mib": round(profile.rss_loaded_bytes / 2**20, 1),
        "rss_peak_mib": round(profile.rss_peak_bytes / 2**20, 1),
        "machine": profile.machine,
        "definitions": DEFINITIONS,
    }


def _turn(turn: Turn) -> dict[str, float | None]:
    return turn.timeline.figures(turn.audio_seconds)


def markdown(doc: dict[str, Any]) -> str:
    """Return the document as tables for people."""
    machine = doc["machine"]
    lines = [
        f"# {doc['bundle']} ({doc['precision']}) on {doc['device']}, exactness {doc['exactness']}",
        "",
        f"{machine['cpu']}, {machine['threads']} threads; load average {machine['load_average']}; "
        f"{doc['repeats']} warm turns; workload: {doc['workload']}",
        "",
        "| phase | a turn | p50 ms | p90 ms | p99 ms | share |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for phase, row in doc["phases_ms"].items():
        cells = [_cell(row[q]) for q in ("p50", "p90", "p99")]
        lines.append(f"| {phase} | {row['count']:g} | {' | '.join(cells)} | {row['share']:.1%} |")
    lines += ["", "| turn | p50 | p90 | p99 | cold |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, row in doc["turn"].items():
        cells = [_cell(row[q]) for q in ("p50", "p90", "p99")]
        lines.append(f"| {name} | {' | '.join(cells)} | {_cell(doc['cold'][name])} |")
    lines += [
        "",
        f"load {doc['load_ms']:.0f} ms; memory {doc['rss_loaded_mib']:.0f} MiB loaded, "
        f"{doc['rss_peak_mib']:.0f} MiB at most; {doc['audio_seconds']:.2f} s of answer",
    ]
    lines += [f"- {name}: {meaning}" for name, meaning in doc["definitions"].items()]
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def comma_separated(doc: dict[str, Any]) -> str:
    """Return one row a figure: name, count, p50, p90, p99."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["figure", "count", "p50", "p90", "p99"])
    for phase, row in doc["phases_ms"].items():
        writer.writerow([f"{phase}_ms", row["count"], row["p50"], row["p90"], row["p99"]])
    for name, row in doc["turn"].items():
        writer.writerow([name, 1, row["p50"], row["p90"], row["p99"]])
    for name in ("load_ms", "rss_loaded_mib", "rss_peak_mib"):
        writer.writerow([name, 1, doc[name], "", ""])
    return out.getvalue().rstrip("\n")


def write_trace(profile: Profile, path: Path) -> None:
    """Write all turns as a Chrome trace (opens in Perfetto); whole or not at all."""
    events: list[Any] = [
        {"name": "process_name", "ph": "M", "pid": 1, "args": {"name": profile.bundle.config.name}}
    ]
    for number, turn in enumerate([profile.cold, *profile.warm]):
        name = "cold turn" if number == 0 else f"turn {number}"
        timeline = turn.timeline
        whole = {
            "name": name,
            "cat": "turn",
            "ph": "X",
            "ts": timeline.begin_ns / 1e3,
            "dur": timeline.total_ms * 1e3,
            "pid": 1,
            "tid": 0,
        }
        events += [whole, *timeline.trace_events()]
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        part.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        error.filename = str(path)
        raise
