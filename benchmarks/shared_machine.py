"""An assistant beside other work: what it takes, against the same alone and against its peers.

    python -m benchmarks.shared_machine [BUNDLE] [--turns 20] [--rounds 3]
    python -m benchmarks.shared_machine --steps BUNDLE_05B [--peers-work FOLDER]

Whole turns of a small bundle (default: the shipped one), or with `--steps` text steps of a large
one beside llama.cpp and OpenVINO, as far as `benchmarks.peers` has made their models in FOLDER:

    ttt-random --like qwen2.5-0.5b CHECKPOINT
    ttt-export -m CHECKPOINT -p int4 --max-kl 1e9 --min-agreement 0 BUNDLE_05B
    python -m benchmarks.peers CHECKPOINT BUNDLE_05B --work FOLDER --prepare-only

Situations: 0, 1, 2 and 4 busy processes; all CPUs but one forbidden; a quota of 1.0 and 1.5 CPUs
(needs a control group that may be written; it says so where there is none); two assistants at once.
In every round each configuration has its turn while the others are stopped, so all meet the same
machine. p99 of fewer than 100 values is their largest. A table, then one JSON document.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from ttt_ref.errors import exit_on_error
from ttt_runtime.cli.assistant_run import shipped_or

CGROUPS = Path("/sys/fs/cgroup")
PERIOD_US = 100_000


@dataclass(frozen=True)
class Situation:
    """What else goes on: busy processes, one CPU only, a quota in CPUs, a second assistant."""

    name: str
    busy: int = 0
    one_cpu: bool = False
    quota: float | None = None
    twice: bool = False


SITUATIONS = (
    Situation("alone"),
    Situation("beside 1 busy process", busy=1),
    Situation("beside 2 busy processes", busy=2),
    Situation("beside 4 busy processes", busy=4),
    Situation("on one CPU", one_cpu=True),
    Situation("quota 1.0", quota=1.0),
    Situation("quota 1.5", quota=1.5),
    Situation("two at once", twice=True),
)


@dataclass
class Worker:
    """A process that answers lines with lists of milliseconds; stopped while others are asked."""

    words: Sequence[str]
    one_cpu: bool = False
    group: Path | None = None
    process: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        """Start, and wait until it is loaded."""

        def settle() -> None:
            if self.one_cpu:
                os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
            if self.group is not None:
                (self.group / "cgroup.procs").write_text(str(os.getpid()))

        self.process = subprocess.Popen(
            self.words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            preexec_fn=settle,
        )
        self.take()

    def ask(self, line: str) -> None:
        """Let it run, and ask."""
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def take(self) -> list[float]:
        """Return its answer, and stop it again."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.words[:4])} ended with {self.process.wait()}")
        self.process.send_signal(signal.SIGSTOP)
        answer = json.loads(line)
        return answer if isinstance(answer, list) else list(answer.get("ms", []))


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep so many CPUs busy, as far as there are any."""
    spin = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(spin) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def quota_group(cpus: float | None) -> Iterator[Path | None]:
    """Make a control group with a quota; OSError where that is not allowed."""
    if cpus is None:
        yield None
        return
    version_1 = CGROUPS / "cpu"
    group = (version_1 if version_1.is_dir() else CGROUPS) / f"ttt-benchmark-{os.getpid()}"
    group.mkdir()
    try:
        quota = int(cpus * PERIOD_US)
        if version_1.is_dir():
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (group / "cpu.max").write_text(f"{quota} {PERIOD_US}")
        yield group
    finally:
        group.rmdir()


def turn_workers(bundle: Path) -> dict[str, tuple[list[str], str]]:
    """Return name -> (command, its line for so many turns)."""
    words = [sys.executable, "-m", "benchmarks.shared_worker", str(bundle)]
    return {
        "ours": ([*words, "cpu", "0"], "{runs}"),
        "ours, 1 thread": ([*words, "cpu", "1"], "{runs}"),
        "onnxruntime": ([*words, "cpu+onnxruntime", "0"], "{runs}"),
    }


def step_workers(bundle: Path, peers: Path | None) -> dict[str, tuple[list[str], str]]:
    """Return the same for text steps at a context of 256 tokens."""
    words = [sys.executable, "-m", "benchmarks.peers.worker"]
    threads = str(len(os.sched_getaffinity(0)))
    line = '{{"do": "text", "runs": {runs}}}'
    workers = {
        "ours": ([*words, "ours", str(bundle), threads], line),
        "ours, 1 thread": ([*words, "ours", str(bundle), "1"], line),
        "onnxruntime": ([*words, "ours-ort", str(bundle), threads], line),
    }
    models = {
        "llama.cpp Q4_0": ("llama", "q4_0.gguf"),
        "OpenVINO int4": ("openvino", "openvino-int4"),
    }
    for name, (kind, file) in models.items():
        if peers is not None and (peers / file).exists():
            workers[name] = ([*words, kind, str(peers / file), threads], line)
    return workers


def measure(
    situation: Situation,
    kinds: dict[str, tuple[list[str], str]],
    runs: int,
    rounds: int,
    first: str | None,
) -> dict[str, list[float]]:
    """Return name -> milliseconds of all rounds."""
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    with quota_group(situation.quota) as group:
        workers: dict[str, list[Worker]] = {}
        try:
            for name, (words, _) in kinds.items():
                count = 2 if situation.twice else 1
                workers[name] = [Worker(words, situation.one_cpu, group) for _ in range(count)]
                for worker in workers[name]:
                    if first is not None:
                        worker.ask(first)
                        worker.take()
            with busy_processes(situation.busy):
                for _ in range(rounds):
                    for name, (_, line) in kinds.items():
                        for worker in workers[name]:
                            worker.ask(line.format(runs=runs))
                        for worker in workers[name]:
                            taken[name] += worker.take()
        finally:
            for worker in (w for several in workers.values() for w in several):
                worker.process.kill()
                worker.process.wait()
    return taken


def figures(times: list[float]) -> dict[str, float]:
    """Return median, p90 and p99 in milliseconds."""
    ordered = sorted(times)

    def at(share: float) -> float:
        return ordered[min(len(ordered), math.ceil(share * len(ordered))) - 1]

    values = {"median": statistics.median(ordered), "p90": at(0.9), "p99": at(0.99)}
    return {name: round(value, 2) for name, value in values.items()}


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return rows of situation and configuration; ratios to the best median and to alone."""
    lines = [
        "| situation | what | median, ms | p90 | p99 | / best here | p99 / median | / alone |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for situation, rows in results.items():
        best = min(row["median"] for name, row in rows.items() if name.startswith("ours"))
        for name, row in rows.items():
            alone = results.get("alone", {}).get(name)
            ratio = "" if alone is None else f"{row['median'] / alone['median']:.2f}"
            lines.append(
                f"| {situation} | {name} | {row['median']:.1f} | {row['p90']:.1f} | "
                f"{row['p99']:.1f} | {row['median'] / best:.2f} | "
                f"{row['p99'] / row['median']:.2f} | {ratio} |"
            )
    return "\n".join(lines)


def _command(
    bundle: Annotated[Path | None, typer.Argument(help="Whole turns of it are measured.")] = None,
    steps: Annotated[Path | None, typer.Option(help="Text steps of this bundle instead.")] = None,
    peers_work: Annotated[Path | None, typer.Option(help="Models of `benchmarks.peers`.")] = None,
    turns: Annotated[int, typer.Option(min=1, help="Turns (or steps) a round.")] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds a situation.")] = 3,
    only: Annotated[list[str] | None, typer.Option(help="Situations with this in their name.")] = (
        None
    ),
) -> None:
    """Measure all situations one after the other."""
    if steps is not None:
        kinds, first = step_workers(steps, peers_work), '{"do": "context", "tokens": 256}'
    else:
        kinds, first = turn_workers(shipped_or(bundle)), None
    results: dict[str, dict[str, dict[str, float]]] = {}
    missing: dict[str, str] = {}
    for situation in SITUATIONS:
        if only and not any(word in situation.name for word in only):
            continue
        print(f"... {situation.name}", file=sys.stderr)
        try:
            taken = measure(situation, kinds, turns, rounds, first)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            missing[situation.name] = str(error).splitlines()[0]
            continue
        results[situation.name] = {name: figures(times) for name, times in taken.items()}
    print(table(results))
    for name, reason in missing.items():
        print(f"not measured: {name}: {reason}")
    document: dict[str, Any] = {"results": results, "missing": missing}
    print(json.dumps(document))


if __name__ == "__main__":
    with exit_on_error():
        typer.run(_command)
