"""Figures of a profile as a document, and the document as Markdown or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ttt_runtime.dialogue.timeline import PHASES
from ttt_runtime.profiler.bench import describe
from ttt_runtime.profiler.figures import quantiles
from ttt_runtime.profiler.measure import Profile
from ttt_runtime.profiler.work import against_limits

DEFINITIONS = {
    "ttfa_ms": "from the question's last sample to the answer's first sample (or codes)",
    "tpot_ms": "one text token, the forward that commits a span included",
    "rtf": "time of the whole turn / seconds of answer; below 1 is faster than speech",
    "passes_a_second_of_audio": "denoising passes for one second of answer",
    "underruns": "gaps in a turn's sound if it plays from its first sample on, on the real clock",
    "cold start": "a fresh process; files may lie in the system's page cache",
}
# Figures of a turn that have quantiles.
TURN_FIGURES = (
    "ttfa_ms",
    "tpot_ms",
    "total_ms",
    "rtf",
    "passes_a_second_of_audio",
    "forwards_a_second_of_audio",
    "underruns",
    "starved_ms",
)


def document(profile: Profile) -> dict[str, Any]:
    """Return everything measured as one JSON document."""
    options, bundle = profile.options, profile.bundle.config
    turns = [turn.figures() for turn in profile.warm]
    phases = _phases(profile)
    if profile.limits is not None:
        medians = {phase: row["p50"] for phase, row in phases.items()}
        for phase, row in against_limits(profile.work, profile.limits, medians).items():
            phases[phase].update(row)
    return {
        "bundle": bundle.name,
        "precision": bundle.precision,
        "engine": bundle.engine,
        **describe(options),
        "runs_in": profile.runs_in,
        "generation": profile.config.to_dict(),
        "repeats": len(turns),
        "cold_start": _medians(profile.cold_starts),
        "cold_starts": len(profile.cold_starts),
        "load_ms": round(profile.load_ms, 3),
        "cold": profile.cold.figures(),
        "warm_up_ms": [turn.figures()["total_ms"] for turn in profile.warm_up],
        "phases_ms": phases,
        "turn": {
            name: quantiles([v for turn in turns if (v := turn[name]) is not None])
            for name in TURN_FIGURES
        },
        "underruns": sum(int(turn["underruns"] or 0) for turn in turns),
        "audio_seconds": turns[-1]["audio_seconds"],
        "rss_loaded_mib": round(profile.rss_loaded_bytes / 2**20, 1),
        "rss_peak_mib": round(profile.rss_peak_bytes / 2**20, 1),
        "energy": profile.energy,
        "limits": None if profile.limits is None else asdict(profile.limits),
        "machine": profile.machine,
        "definitions": DEFINITIONS,
    }


def _phases(profile: Profile) -> dict[str, dict[str, float | None]]:
    times = {
        phase: [ms for turn in profile.warm for ms in turn.timeline.phase_ms(phase)]
        for phase in PHASES
    }
    everything = sum(map(sum, times.values())) or 1.0
    return {
        phase: {
            "count": round(len(values) / max(len(profile.warm), 1), 2),
            **quantiles(values),
            "share": round(sum(values) / everything, 4),
        }
        for phase, values in times.items()
    }


def _medians(tables: Sequence[Mapping[str, float | None]]) -> dict[str, float | None] | None:
    if not tables:
        return None
    return {
        name: quantiles([v for table in tables if (v := table[name]) is not None])["p50"]
        for name in tables[0]
    }


def markdown(doc: Mapping[str, Any]) -> str:
    """Return the document as tables for people."""
    machine = doc["machine"]
    parts = [
        [
            f"# {doc['bundle']} ({doc['precision']}) on {doc['device']}, "
            f"exactness {doc['exactness']}",
            "",
            f"{machine['cpu']}, {machine['threads']} threads; load average "
            f"{machine['load_average']}; {doc['repeats']} warm turns; workload: {doc['workload']}"
            + ("; model and codec overlap" if doc["overlap"] else ""),
            f"the decoder runs in {doc['runs_in']}",
        ],
        _phase_table(doc),
        _turn_table(doc),
        [_memory_line(doc), *_limit_lines(doc), *_energy_lines(doc["energy"])],
        [f"- {name}: {meaning}" for name, meaning in doc["definitions"].items()],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts)


def _phase_table(doc: Mapping[str, Any]) -> list[str]:
    columns: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("a turn", lambda row: f"{row['count']:g}"),
        *((f"p{q} ms", lambda row, q=q: cell(row[f"p{q}"])) for q in (50, 90, 99)),
        ("share", lambda row: f"{row['share']:.1%}"),
    ]
    if doc["limits"] is not None:
        columns += [
            ("MB", lambda row: cell(row.get("megabytes"))),
            ("Mop", lambda row: cell(row.get("mega_ops"))),
            ("of bandwidth", lambda row: percent(row.get("of_bandwidth"))),
            ("of peak", lambda row: percent(row.get("of_peak"))),
            ("floor ms", lambda row: cell(row.get("floor_ms"))),
        ]
    lines = [
        f"| phase | {' | '.join(name for name, _ in columns)} |",
        f"| --- |{' ---: |' * len(columns)}",
    ]
    for phase, row in doc["phases_ms"].items():
        lines.append(f"| {phase} | {' | '.join(show(row) for _, show in columns)} |")
    return lines


def _turn_table(doc: Mapping[str, Any]) -> list[str]:
    lines = ["| turn | p50 | p90 | p99 | first turn |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, row in doc["turn"].items():
        cells = [cell(row[q]) for q in ("p50", "p90", "p99")]
        lines.append(f"| {name} | {' | '.join(cells)} | {cell(doc['cold'][name])} |")
    lines.append("")
    if doc["cold_start"] is not None:
        start = doc["cold_start"]
        lines.append(
            f"cold start ({doc['cold_starts']} fresh processes, median): "
            f"{cell(start['ready_ms'])} ms until it listens (interpreter "
            f"{cell(start['interpreter_ms'])}, imports {cell(start['imports_ms'])}, loading "
            f"{cell(start['load_ms'])}), first turn {cell(start['first_turn_ms'])} ms, first "
            f"sound {cell(start['first_audio_ms'])} ms after the start of the process"
        )
    warm_up = ", ".join(cell(ms) for ms in doc["warm_up_ms"]) or "none"
    lines.append(
        f"this process: load {doc['load_ms']:.0f} ms, first turn {cell(doc['cold']['total_ms'])} "
        f"ms, warm-up turns {warm_up} ms (not in the tables)"
    )
    return lines


def _memory_line(doc: Mapping[str, Any]) -> str:
    return (
        f"memory {doc['rss_loaded_mib']:.0f} MiB loaded, {doc['rss_peak_mib']:.0f} MiB at most; "
        f"{doc['audio_seconds']:.2f} s of answer; {doc['underruns']} underruns in "
        f"{doc['repeats']} turns"
    )


def _limit_lines(doc: Mapping[str, Any]) -> list[str]:
    limits = doc["limits"]
    if limits is None:
        return []
    return [
        f"this machine, {limits['threads']} threads, measured: {limits['memory_gbps']:g} GB/s from "
        f"memory, {limits['weights_gbps']:g} GB/s over a buffer of what a text step reads "
        f"({limits['weights_bytes'] / 1e6:.1f} MB); {limits['float_gops']:g} Gop/s in float32, "
        f"{limits['int8_gops']:g} in 8 bit"
    ]


def _energy_lines(energy: Mapping[str, Any]) -> list[str]:
    if not energy["available"]:
        return [f"energy: this device does not tell ({'; '.join(energy['absent'])})"]
    return [
        f"energy, {rail['source']} {rail['name']}: {rail['watts']:g} W, "
        f"{rail['joules_a_turn']:g} J a turn, {cell(rail['joules_a_second_of_speech'])} J a second "
        "of speech"
        for rail in energy["rails"]
    ]


def cell(value: float | None) -> str:
    """Return a number for a table; `-` for none."""
    return "-" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def percent(value: float | None) -> str:
    """Return a share for a table; `-` for none."""
    return "-" if value is None else f"{100 * value:.0f} %"


def comma_separated(doc: Mapping[str, Any]) -> str:
    """Return one row a figure: name, count, p50, p90, p99, share, and what limits tell."""
    extra = ("megabytes", "mega_ops", "floor_ms", "of_bandwidth", "of_peak")
    rows: list[list[Any]] = [["figure", "count", "p50", "p90", "p99", "share", *extra]]
    for phase, row in doc["phases_ms"].items():
        values = [row.get(name, "") for name in ("count", "p50", "p90", "p99", "share", *extra)]
        rows.append([f"{phase}_ms", *values])
    for name, row in doc["turn"].items():
        rows.append([name, doc["repeats"], row["p50"], row["p90"], row["p99"]])
    once = ("load_ms", "underruns", "rss_loaded_mib", "rss_peak_mib")
    rows += [[name, 1, doc[name]] for name in once]
    starts = (doc["cold_start"] or {}).items()
    rows += [[f"cold_start_{name}", doc["cold_starts"], value] for name, value in starts]
    return table_text(rows)


def table_text(rows: Sequence[Sequence[Any]]) -> str:
    """Return rows as CSV, short rows filled up; None is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    width = max(map(len, rows))
    for row in rows:
        writer.writerow(["" if v is None else v for v in [*row, *[""] * (width - len(row))]])
    return out.getvalue().rstrip("\n")
