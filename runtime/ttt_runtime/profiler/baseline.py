"""Hold a profile against an earlier one: for continuous integration."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ttt_ref.bounded import Unreadable, parse_json, read_text
from ttt_ref.errors import ConfigError

EXIT_REGRESSION: Final = 3
MAX_BYTES: Final = 16 * 2**20
# What must be alike for two profiles to be comparable at all.
_ALIKE: Final = ("bundle", "precision", "device", "exactness", "fast", "workload", "shape")
_ALIKE_LATER: Final = ("overlap", "generation")


def read_baseline(path: Path) -> dict[str, Any]:
    """Read the document of an earlier run: a file whose last line is its JSON.

    Raises:
        ConfigError: the file is no profile, or has figures that none can have.
    """
    lines = read_text(path, MAX_BYTES, ConfigError).strip().splitlines()
    try:
        document = parse_json(lines[-1] if lines else "", strict=False)
    except Unreadable:
        document = None
    advice = f"make one with: ttt-profile BUNDLE -o json > {path}"
    if not _is_profile(document):
        raise ConfigError(f"{path} is no profile; {advice}")
    assert isinstance(document, dict)
    figures = _figures(document)
    for name, value in figures.items():
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{path} has {name} {value:g}, which nothing can take; {advice}")
    # A single one may have been rounded to 0; it is left out.
    if not any(figures.values()):
        raise ConfigError(f"{path} has no figure above 0; {advice}")
    return document


def _is_profile(document: object) -> bool:
    if not isinstance(document, dict) or not all(key in document for key in _ALIKE):
        return False
    tables = [document.get("turn"), document.get("phases_ms")]
    return all(
        isinstance(t, dict) and all(isinstance(r, dict) for r in t.values()) for t in tables
    ) and isinstance(document.get("machine") or {}, dict)


def limit_of(text: str) -> float:
    """Return the share that `0.1` or `10%` names.

    Raises:
        ConfigError: not a number from 0 to 10.
    """
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 10:
        raise ConfigError(f"--max-regression is {text!r}; expected a share such as 0.1 or 10%")
    return share


def hold_against(
    document: Mapping[str, Any], baseline: Mapping[str, Any], limit: float
) -> dict[str, Any]:
    """Return every figure beside the baseline's, and the names of those that got too slow.

    Args:
        document: the new profile.
        baseline: the earlier one.
        limit: a figure may be larger by this share.

    Raises:
        ConfigError: the two were not measured alike.
    """
    for key in (*_ALIKE, *_ALIKE_LATER):
        before, now = baseline.get(key), document.get(key)
        if before != now:
            raise ConfigError(
                f"the baseline was measured with {key} {_short(before)}, this profile with "
                f"{_short(now)}; measure them alike"
            )
    now_figures, before_figures = _figures(document), _figures(baseline)
    compared = {
        name: {"baseline": before_figures[name], "now": now, "ratio": round(ratio, 4)}
        for name, now in now_figures.items()
        if before_figures.get(name)
        for ratio in [now / before_figures[name]]
    }
    if not compared:
        raise ConfigError("baseline and profile have no figure in common")
    return {
        "max_regression": limit,
        "compared": compared,
        "regressions": [name for name, row in compared.items() if row["ratio"] > 1 + limit],
        "same_machine": _machine(document) == _machine(baseline),
    }


def _figures(document: Mapping[str, Any]) -> dict[str, float]:
    found = {
        f"{name}_p50": document["turn"].get(name, {}).get("p50")
        for name in ("ttfa_ms", "tpot_ms", "total_ms", "rtf")
    }
    for phase, row in document["phases_ms"].items():
        found[f"{phase}_ms_p50"] = row.get("p50")
    found["rss_peak_mib"] = document.get("rss_peak_mib")
    start = document.get("cold_start")
    found["cold_start_ready_ms"] = start.get("ready_ms") if isinstance(start, dict) else None
    return {name: float(v) for name, v in found.items() if type(v) in (int, float)}


def _machine(document: Mapping[str, Any]) -> tuple[Any, ...]:
    machine = document.get("machine") or {}
    return tuple(machine.get(key) for key in ("cpu", "cpus", "threads"))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def verdict_lines(found: Mapping[str, Any]) -> list[str]:
    """Return what a person should read of `hold_against`."""
    lines = [
        f"regression: {name} {row['baseline']:g} -> {row['now']:g} ({row['ratio']:.2f} x, allowed "
        f"{1 + found['max_regression']:.2f} x)"
        for name, row in found["compared"].items()
        if name in found["regressions"]
    ] or [f"no figure is more than {found['max_regression']:.0%} above the baseline"]
    if not found["same_machine"]:
        lines.append("the baseline comes from another machine or number of threads")
    return lines
