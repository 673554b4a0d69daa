"""What `ttt-profile` does once its options are known."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttt_ref.errors import ConfigError
from ttt_runtime.backends.ort.session import SessionSettings, share_thread_pool
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.decode.approximations import exactness_named, parse_approximations
from ttt_runtime.machine.device import Device
from ttt_runtime.profiler import baseline as baselines
from ttt_runtime.profiler.bench import ProfileOptions, generation_config
from ttt_runtime.profiler.compare import (
    changed,
    compare,
    comparison_document,
    comparison_markdown,
    comparison_rows,
)
from ttt_runtime.profiler.measure import measure
from ttt_runtime.profiler.plot import check_plots, write_plot
from ttt_runtime.profiler.report import comma_separated, document, markdown, table_text
from ttt_runtime.profiler.sweep import grid, sweep, sweep_markdown, sweep_rows
from ttt_runtime.profiler.trace import write_trace
from ttt_runtime.profiler.workload import TurnShape
from ttt_runtime.terminal.progress import Progress

_DEFAULT_REGRESSION = "10%"


@dataclass(frozen=True)
class Request:
    """The command line, as typed; see its help."""

    bundles: tuple[Path, ...]
    repeats: int
    form: str
    trace: Path | None
    question: str | None
    shape: tuple[float, int, int, int]
    preset: str | None
    steps: str | None
    block: str | None
    threads: str | None
    device: str
    exactness: str
    fast: tuple[str, ...]
    overlap: bool
    plots: tuple[Path, ...]
    compare: bool
    b: tuple[str, ...]
    baseline: Path | None
    max_regression: str | None
    warm_up: int
    cold_starts: int
    limits: bool


def run_profile(request: Request) -> None:
    """Measure, write what was asked for, print the report and one line of JSON."""
    steps, blocks, threads = (
        _numbers(name, getattr(request, name)) for name in ("steps", "block", "threads")
    )
    options = _options(request)
    is_sweep = len(request.bundles) * len(steps) * len(blocks) * len(threads) > 1
    if request.compare:
        _refuse(request, "--compare", trace=None, plots=(), baseline=None)
        if max(map(len, (steps, blocks, threads))) > 1:
            raise ConfigError("--compare takes no lists; give B's values with --b")
        _run_compare(request, _with(options, steps[0], blocks[0], threads[0]))
    elif request.b:
        raise ConfigError("--b says what B does otherwise; it needs --compare")
    elif is_sweep:
        _refuse(request, "a sweep", trace=None, baseline=None)
        points = grid(options, request.bundles, steps, blocks, threads)
        _run_sweep(request, points)
    else:
        _refuse(request, "one profile; give several bundles, --steps, --block or --threads",
                plots=())  # fmt: skip
        _run_one(request, _with(options, steps[0], blocks[0], threads[0]))


def _numbers(name: str, text: str | None) -> list[int | None]:
    """Return the whole numbers of a list such as `1,2,4`; [None] without one."""
    if text is None:
        return [None]
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not part.isdecimal() or not 1 <= int(part) <= 4096:
            raise ConfigError(
                f"--{name} is {text!r}; expected a whole number from 1 to 4096, or several "
                "with commas"
            )
    return [int(part) for part in dict.fromkeys(parts)]


def _options(request: Request) -> ProfileOptions:
    exactness = exactness_named(request.exactness)
    if request.max_regression is not None and request.baseline is None:
        raise ConfigError("--max-regression needs --baseline FILE")
    options = ProfileOptions(
        request.bundles[0],
        request.repeats,
        request.preset,
        request.device,
        exactness,
        None,
        TurnShape(*request.shape),
        request.question,
        fast=parse_approximations(request.fast, exactness),
        overlap=request.overlap,
        warm_up=request.warm_up,
        cold_starts=request.cold_starts,
        limits=request.limits,
    )
    check_plots(request.plots)
    if request.question is not None:
        Path(request.question).stat()
    for path in (request.trace, request.baseline):
        if path is not None:
            path.absolute().parent.stat()
    return options


def _with(
    options: ProfileOptions, steps: int | None, block: int | None, threads: int | None
) -> ProfileOptions:
    changed_options = dataclasses.replace(options, steps=steps, block=block, threads=threads)
    Device.parse(options.device)
    SessionSettings("cpu", threads)
    generation_config(changed_options, Bundle.open(options.bundle, "sizes"))
    return changed_options


def _refuse(request: Request, what: str, **defaults: Any) -> None:
    for name, default in defaults.items():
        if getattr(request, name) != default:
            raise ConfigError(f"--{name.removesuffix('s')} does not go with {what}")


def _run_one(request: Request, options: ProfileOptions) -> None:
    earlier = None if request.baseline is None else baselines.read_baseline(request.baseline)
    allowed = baselines.limit_of(request.max_regression or _DEFAULT_REGRESSION)
    share_thread_pool()
    with Progress() as progress:
        profile = measure(options, progress)
    if request.trace is not None:
        names = ["first turn", *(f"warm-up {n + 1}" for n in range(len(profile.warm_up)))]
        names += [f"turn {n + 1}" for n in range(len(profile.warm))]
        turns = [profile.cold, *profile.warm_up, *profile.warm]
        name = profile.bundle.config.name
        write_trace(list(zip(names, turns, strict=True)), name, request.trace)
    doc = document(profile)
    text = markdown(doc) if request.form == "md" else comma_separated(doc)
    found: Mapping[str, Any] | None = None
    if earlier is not None:
        found = baselines.hold_against(doc, earlier, allowed)
        doc["baseline"] = {"file": str(request.baseline), **found}
        if request.form == "md":
            text += "\n\n" + "\n".join(baselines.verdict_lines(found))
    _print(request.form, text, doc)
    if found is not None and found["regressions"]:
        raise SystemExit(baselines.EXIT_REGRESSION)


def _run_compare(request: Request, options: ProfileOptions) -> None:
    bundles = request.bundles
    if len(bundles) > 2 or (len(bundles) == 1 and not request.b):
        raise ConfigError(
            f"--compare got {len(bundles)} bundles; give two, or one and what B does otherwise "
            "with --b"
        )
    other = changed(dataclasses.replace(options, bundle=bundles[-1]), request.b)
    other = _with(other, other.steps, other.block, other.threads)
    with Progress() as progress:
        doc = comparison_document(compare(options, other, progress))
    is_md = request.form == "md"
    _print(
        request.form, comparison_markdown(doc) if is_md else table_text(comparison_rows(doc)), doc
    )


def _run_sweep(request: Request, points: Sequence[ProfileOptions]) -> None:
    with Progress() as progress:
        # A process a point tells its own start; the machine's limits are not the sweep's matter.
        plain = [dataclasses.replace(p, cold_starts=0, limits=False) for p in points]
        doc = sweep(plain, progress)
        for path in request.plots:
            progress(f"drawing {path}")
            write_plot(doc, path)
    is_md = request.form == "md"
    _print(request.form, sweep_markdown(doc) if is_md else table_text(sweep_rows(doc)), doc)


def _print(form: str, text: str, doc: Mapping[str, Any]) -> None:
    if form != "json":
        print(text)
    print(json.dumps(doc, ensure_ascii=False))
