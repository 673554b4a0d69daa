"""What `ttt-profile` does once its options are known."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ttt_runtime.chooser import exactness_named
from ttt_runtime.fast import parse_fast
from ttt_runtime.profiler.measure import ProfileOptions, measure
from ttt_runtime.profiler.report import comma_separated, document, markdown, write_trace
from ttt_runtime.profiler.workload import TurnShape


def run_profile(
    bundle: Path,
    *,
    repeats: int,
    form: str,
    trace: Path | None,
    question: str | None,
    shape: tuple[float, int, int, int],
    preset: str | None,
    device: str,
    exactness: str,
    threads: int | None,
    fast: tuple[str, ...] = (),
) -> None:
    """Measure and print; progress goes to stderr if that is a terminal."""
    options = ProfileOptions(
        bundle,
        repeats,
        preset,
        device,
        exactness_named(exactness),
        threads,
        TurnShape(*shape),
        question,
        fast=parse_fast(fast, exactness),
    )
    profile = measure(options, _progress if sys.stderr.isatty() else lambda _: None)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    if trace is not None:
        write_trace(profile, trace)
    doc = document(profile)
    if form == "json":
        print(json.dumps(doc, ensure_ascii=False))
    else:
        print(markdown(doc) if form == "md" else comma_separated(doc))


def _progress(message: str) -> None:
    print(f"\r\x1b[K{message}", end="", file=sys.stderr, flush=True)
