"""Two setups beside each other in one process: the same turn, in pairs, in turns A B, B A, A B.

What disturbs the machine for longer than a turn hits both of a pair, so the ratio of a pair says
more than two medians do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ttt_ref.errors import ConfigError
from ttt_runtime.backends.ort.session import SessionSettings, share_thread_pool
from ttt_runtime.decode.approximations import Approximations, exactness_named, parse_approximations
from ttt_runtime.dialogue.timeline import PHASES
from ttt_runtime.profiler.bench import Bench, ProfileOptions, Turn, describe
from ttt_runtime.profiler.figures import Interval, median_interval, quantiles
from ttt_runtime.profiler.machine import describe_machine
from ttt_runtime.profiler.measure import Progress, quiet
from ttt_runtime.profiler.report import cell

FIGURES: Final = ("ttfa_ms", "tpot_ms", "total_ms", "rtf", "starved_ms")
_SETTINGS: Final = (
    "exactness", "fast", "device", "threads", "overlap", "steps", "block", "preset",
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """The turns of A and B; turn i of one was run beside turn i of the other."""

    a: ProfileOptions
    b: ProfileOptions
    names: tuple[str, str]
    turns: tuple[list[Turn], list[Turn]]


def changed(options: ProfileOptions, items: Sequence[str]) -> ProfileOptions:
    """Return options with `name=value` changes, as `--b` of the command line gives them.

    Raises:
        ConfigError: an unknown name, or a value that cannot be.
    """
    values: dict[str, Any] = {}
    fast: list[str] = []
    for item in items:
        name, equals, text = item.partition("=")
        if name not in _SETTINGS or not equals:
            raise ConfigError(f"--b {item!r}; expected NAME=VALUE of {', '.join(_SETTINGS)}")
        if name == "fast":
            fast.append(text)
        elif name == "exactness":
            values[name] = exactness_named(text)
        elif name in ("preset", "device"):
            values[name] = text
        elif name == "overlap":
            if text not in ("on", "off"):
                raise ConfigError(f"--b overlap is {text!r}; expected on or off")
            values[name] = text == "on"
        else:
            if not text.isdecimal():
                raise ConfigError(f"--b {name} is {text!r}; expected a whole number")
            values[name] = int(text)
    if fast:
        values["fast"] = parse_approximations(fast, values.get("exactness", options.exactness))
    elif values.get("exactness", "fast") != "fast":
        values["fast"] = None
    return dataclasses.replace(options, **values)


def compare(a: ProfileOptions, b: ProfileOptions, progress: Progress = quiet) -> Comparison:
    """Load both and run `a.repeats` pairs of turns after `a.warm_up` pairs that do not count."""
    if a.threads == b.threads:
        share_thread_pool()  # otherwise each keeps threads of its own
    benches = []
    for options in (a, b):
        progress(f"loading {options.bundle}")
        benches.append(Bench(options))
    turns: tuple[list[Turn], list[Turn]] = ([], [])
    for number in range(-a.warm_up - 1, a.repeats):
        progress(f"pair {number + 1} of {a.repeats}" if number >= 0 else "warming up")
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            turn = benches[side].turn()
            if number >= 0:
                turns[side].append(turn)
    names = tuple(bench.bundle.config.name for bench in benches)
    return Comparison(a, b, (names[0], names[1]), turns)


def comparison_document(found: Comparison) -> dict[str, Any]:
    """Return medians of both sides and, a figure, the paired ratio B / A with its interval."""
    rows: dict[str, dict[str, Any]] = {}
    for name, read in _readers().items():
        a, b = ([read(turn) for turn in side] for side in found.turns)
        pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
        if not pairs or not any(x or y for x, y in pairs):
            continue
        row: dict[str, Any] = {
            "a": quantiles([x for x, _ in pairs])["p50"],
            "b": quantiles([y for _, y in pairs])["p50"],
            "difference": median_interval([y - x for x, y in pairs]).rounded(),
        }
        if all(x > 0 for x, _ in pairs):
            ratio = median_interval([y / x for x, y in pairs])
            row |= {"ratio": ratio.rounded(), "verdict": verdict(ratio)}
        rows[name] = row
    threads = SessionSettings("cpu", found.a.threads).thread_count
    return {
        "compare": [
            {"side": side, "bundle": name, **describe(options), **_shape(options)}
            for side, name, options in zip("ab", found.names, (found.a, found.b), strict=True)
        ],
        "pairs": len(found.turns[0]),
        "underruns": [sum(turn.timeline.underruns or 0 for turn in side) for side in found.turns],
        "figures": rows,
        "machine": describe_machine(threads),
        "method": "turns alternate A B, B A in one process; ratio = median of B / A of each pair; "
        "interval = 95 % of 4000 bootstrap draws of the pairs",
    }


def _shape(options: ProfileOptions) -> dict[str, Any]:
    return {"steps": options.steps, "block": options.block, "preset": options.preset}


def _readers() -> dict[str, Callable[[Turn], float | None]]:
    def figure(name: str) -> Callable[[Turn], float | None]:
        return lambda turn: turn.figures()[name]

    return {name: figure(name) for name in (*FIGURES, *(f"{phase}_ms" for phase in PHASES))}


def verdict(ratio: Interval) -> str:
    """Say what an interval of B / A shows of a time."""
    if ratio.high < 1:
        return "B is faster"
    if ratio.low > 1:
        return "B is slower"
    return "no difference shown"


def comparison_markdown(doc: Mapping[str, Any]) -> str:
    """Return the comparison as a table."""
    a, b = doc["compare"]
    shown = [
        f"{key}={_fast(b[key]) if key == 'fast' else b[key]}"
        for key in b
        if key not in ("side", "bundle") and b[key] != a[key]
    ]
    lines = [
        f"# A: {a['bundle']}, B: {b['bundle']}" + (f" ({', '.join(shown)})" if shown else ""),
        "",
        f"{doc['machine']['cpu']}, {doc['machine']['threads']} threads; load average "
        f"{doc['machine']['load_average']}; {doc['pairs']} pairs; underruns A "
        f"{doc['underruns'][0]}, B {doc['underruns'][1]}",
        "",
        "| figure | A p50 | B p50 | B - A (95 %) | B / A (95 %) | |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, row in doc["figures"].items():
        change, ratio = row["difference"], row.get("ratio")
        lines.append(
            f"| {name} | {cell(row['a'])} | {cell(row['b'])} | {_interval(change)} | "
            f"{'-' if ratio is None else _interval(ratio)} | {row.get('verdict', '')} |"
        )
    return "\n".join([*lines, "", doc["method"]])


def _fast(options: Mapping[str, Any] | None) -> str:
    """Return the fast options that are not at their default."""
    default = dataclasses.asdict(Approximations())
    shown = [f"{n}={v}" for n, v in (options or default).items() if v != default[n]]
    return "+".join(shown) or "default"


def _interval(row: Mapping[str, float]) -> str:
    return f"{cell(row['median'])} ({cell(row['low'])} .. {cell(row['high'])})"


def comparison_rows(doc: Mapping[str, Any]) -> list[list[Any]]:
    """Return the comparison as rows of a CSV file."""
    rows: list[list[Any]] = [["figure", "a", "b", "ratio", "ratio_low", "ratio_high", "verdict"]]
    for name, row in doc["figures"].items():
        ratio = row.get("ratio") or {"median": None, "low": None, "high": None}
        medians = (ratio["median"], ratio["low"], ratio["high"])
        rows.append([name, row["a"], row["b"], *medians, row.get("verdict")])
    return rows
