"""Our steps beside those of other engines, interleaved in one run: `make peers`, or

    ttt-random --like qwen2.5-0.5b CHECKPOINT
    ttt-export -m CHECKPOINT -p int4 --block-body int8 --max-kl 1e9 --min-agreement 0 BUNDLE
    python -m benchmarks.peers CHECKPOINT BUNDLE --work FOLDER

Medians in ms over all rounds. A ratio is the median of the rounds' own ratios: a shared machine is
twice as fast in one minute as in the next, and what is measured within seconds of each other is hit
alike. The weights are random: this says what the engines take, nothing of what they say.
A peer that cannot be installed, prepared or run is named with its reason, in one line.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.peers import prepare
from benchmarks.peers.table import markdown
from ttt_ref.errors import exit_on_error

# Name -> (kind of worker, file or folder below --work, how it is made).
PEERS = {
    "llama.cpp Q4_0": ("llama", "q4_0.gguf", prepare.gguf_q4_0),
    "onnxruntime-genai int4": ("genai", "genai-int4", prepare.genai_int4),
    "OpenVINO int4": ("openvino", "openvino-int4", prepare.openvino_int4),
    "OpenVINO int8": ("openvino", "openvino-int8", prepare.openvino_int8),
    "torch eager bf16": ("torch", None, None),
}
OURS = {
    "ours, one 4-bit body": "ours",
    "ours, int8 body for blocks": "ours-int8-block",
    "ours in onnxruntime, one 4-bit body": "ours-ort",
    "ours in onnxruntime, int8 body for blocks": "ours-ort-int8-block",
}
CASES = [(what, context) for context in (256, 1024) for what in ("text", "block")]
RUNS = {"text": 8, "block": 3}


@dataclass
class Worker:
    """One engine's process, stopped while others are measured."""

    name: str
    process: subprocess.Popen[str]
    loaded_mib: float = 0.0
    peak_mib: float = 0.0
    context: int = 0
    rounds: dict[str, list[float]] = field(default_factory=dict)  # case -> each round's median, ms

    def ask(self, **request: Any) -> dict[str, Any]:
        """Let the engine run, ask it, and stop it again."""
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.read()

    def read(self) -> dict[str, Any]:
        """Read an answer; RuntimeError if the engine ended instead."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"its process ended with {self.process.wait()}")
        self.process.send_signal(signal.SIGSTOP)
        answer: dict[str, Any] = json.loads(line)
        return answer


def start(name: str, kind: str, model: Path, threads: int, log: Path) -> Worker:
    """Start an engine and wait until it is loaded."""
    words = [sys.executable, "-m", "benchmarks.peers.worker", kind, str(model), str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with log.open("w") as file:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env=environment,
        )
    worker = Worker(name, process)
    worker.loaded_mib = worker.read()["mib"]
    return worker


def measure(workers: list[Worker], rounds: int) -> dict[str, str]:
    """Take all times in turns; return why an engine dropped out."""
    failed: dict[str, str] = {}
    for context in sorted({context for _, context in CASES}):
        for _ in range(rounds):
            for worker in workers:
                if worker.name in failed:
                    continue
                try:
                    if worker.context != context:
                        worker.ask(do="context", tokens=context)
                        worker.context = context
                    for what in ("text", "block"):
                        taken = worker.ask(do=what, runs=RUNS[what])["ms"]
                        medians = worker.rounds.setdefault(f"{what}@{context}", [])
                        medians.append(statistics.median(taken))
                except (RuntimeError, OSError) as error:
                    failed[worker.name] = str(error)
    for worker in workers:
        if worker.name not in failed:
            worker.peak_mib = worker.ask(do="memory")["mib"]
    return failed


def _command(
    checkpoint: Annotated[Path, typer.Argument(help="The checkpoint of the bundle.")],
    bundle: Annotated[Path, typer.Argument(help="Our bundle, with a body for blocks.")],
    work: Annotated[Path, typer.Option(help="Where the peers' models are made and kept.")],
    rounds: Annotated[int, typer.Option(min=1, help="Turns of every engine a case.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Threads of every engine.")] = 2,
    only: Annotated[list[str] | None, typer.Option(help="Peers whose name has this.")] = None,
    prepare_only: Annotated[bool, typer.Option(help="Make the peers' models and stop.")] = False,
) -> None:
    """Measure text steps and blocks of all engines; table first, one JSON document last."""
    work.mkdir(parents=True, exist_ok=True)
    missing: dict[str, str] = {}
    checkpoint = prepare.plain_checkpoint(checkpoint, work / "checkpoint")
    models: list[tuple[str, str, Path]] = [(name, kind, bundle) for name, kind in OURS.items()]
    for name, (kind, file, make) in PEERS.items():
        if only and not any(word in name for word in only):
            continue
        path = checkpoint if file is None else work / file
        try:
            if make is not None and not path.exists():
                print(f"... making {path.name}", file=sys.stderr)
                part = path.with_name(f"part-{path.name}")  # what breaks off is no model
                shutil.rmtree(part, ignore_errors=True)
                make(checkpoint, part, threads)
                part.rename(path)
            models.append((name, kind, path))
        except Exception as error:  # any failure of a peer's own tools is a line in the table
            missing[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    if prepare_only:
        print(json.dumps({"missing": missing}))
        return
    workers = []
    for name, kind, path in models:
        try:
            workers.append(start(name, kind, path, threads, work / f"{kind}.log"))
        except (RuntimeError, OSError) as error:
            missing[name] = f"{error}; see {work / f'{kind}.log'}"
    try:
        missing |= measure(workers, rounds)
    finally:
        for worker in workers:
            worker.process.kill()
    rows = [
        {
            "engine": worker.name,
            "loaded_mib": round(worker.loaded_mib),
            "resident_mib": round(worker.peak_mib),
            **{
                case: round(statistics.median(medians), 2)
                for case, medians in worker.rounds.items()
            },
            "rounds": worker.rounds,
        }
        for worker in workers
        if worker.name not in missing
    ]
    document = markdown(rows, missing, bundle, threads)
    print(document.text)
    print(json.dumps(document.data))


if __name__ == "__main__":
    with exit_on_error():
        typer.run(_command)
