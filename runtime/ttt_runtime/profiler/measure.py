"""Measure one bundle: cold starts, warm-up, warm turns, energy, and the machine's limits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ttt_ref.config import GenerationConfig
from ttt_runtime.backends.ort.session import SessionSettings
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.machine.device import Device
from ttt_runtime.profiler.bench import Bench, ProfileOptions, Turn
from ttt_runtime.profiler.cold_start import cold_start
from ttt_runtime.profiler.energy import EnergyMeter, find_meters
from ttt_runtime.profiler.limits import MEMORY_BYTES, Limits, measure_limits
from ttt_runtime.profiler.machine import describe_machine, peak_bytes, resident_bytes
from ttt_runtime.profiler.work import Work, count_work

Progress = Callable[[str], None]


def quiet(message: str) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class Profile:
    """What was measured, and on what.

    Attributes:
        options: what was asked for.
        config: the generation options that were used.
        bundle: the bundle.
        load_ms: loading in this process.
        cold: the first turn of this process.
        warm_up: turns between the first and those that count.
        warm: the turns that count.
        rss_loaded_bytes: memory of the process when everything was loaded.
        rss_peak_bytes: most memory of the process up to the end of the last turn.
        machine: what it ran on.
        energy: see `EnergyMeter.document`; of the warm turns.
        cold_starts: see `cold_start`; one table a process.
        limits: what the machine can do; None if it was not measured.
        work: what one call of each phase reads and computes.
        runs_in: see `base.Runner.runs_in`.
    """

    options: ProfileOptions
    config: GenerationConfig
    bundle: Bundle
    load_ms: float
    cold: Turn
    warm_up: list[Turn]
    warm: list[Turn]
    rss_loaded_bytes: int
    rss_peak_bytes: int
    machine: dict[str, Any]
    energy: dict[str, Any]
    cold_starts: list[dict[str, float | None]] = field(default_factory=list)
    limits: Limits | None = None
    work: dict[str, Work] = field(default_factory=dict)
    runs_in: str = ""


def measure(options: ProfileOptions, progress: Progress = quiet) -> Profile:
    """Measure a bundle as its options say."""
    starts = []
    for number in range(options.cold_starts):
        progress(f"cold start {number + 1} of {options.cold_starts}")
        starts.append(cold_start(options))
    progress(f"loading {options.bundle}")
    begin = time.perf_counter()
    bench = Bench(options)
    load_ms = (time.perf_counter() - begin) * 1e3
    loaded = resident_bytes()
    progress("first turn")
    cold = bench.turn()
    warm_up = []
    for number in range(options.warm_up):
        progress(f"warming up, turn {number + 1} of {options.warm_up}")
        warm_up.append(bench.turn())
    warm = []
    with EnergyMeter(find_meters()) as meter:
        for number in range(options.repeats):
            progress(f"turn {number + 1} of {options.repeats}")
            warm.append(bench.turn())
    settings = SessionSettings("cpu", options.threads)
    peak, machine = peak_bytes(), describe_machine(settings.thread_count)
    bundle, config, runs_in = bench.bundle, bench.config, bench.engine.runner.runs_in
    limits, work = None, {}
    # A GPU's bandwidth and peak are its own; those of the CPU beside it would say nothing.
    if options.limits and Device.parse(options.device).name == "cpu":
        del bench  # the counting run loads the graphs once more
        progress("counting the work of each phase")
        work = count_work(options)
        progress("measuring the machine")
        # What a text step reads is read again by the next: it may stay in a cache.
        step = work.get("text", Work(MEMORY_BYTES, 0, 0))
        limits = measure_limits(settings, round(step.bytes))
    speech = sum(turn.audio_seconds for turn in warm)
    return Profile(
        options,
        config,
        bundle,
        load_ms,
        cold,
        warm_up,
        warm,
        loaded,
        peak,
        machine,
        meter.document(len(warm), speech),
        starts,
        limits,
        work,
        runs_in,
    )
