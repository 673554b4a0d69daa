"""Measure what exports take: ``python -m ttt_export.measure CHECKPOINT... -p fp16 -p int4``.

Each export runs in a process of its own; its time, its peak of resident memory (as the kernel
counts it, file pages that the process has mapped included) and the size of what it wrote are put
beside what ``--plan-memory`` said beforehand. The bundles are removed again, one after the other.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import psutil
import typer

from ttt_ref.bounded import parse_json, read_bytes
from ttt_ref.command_line import run_app
from ttt_ref.errors import ConfigError, ExportError

# Random weights agree with nothing: figures of size and time are wanted of them, not of quality.
OPEN_GATES = ("--max-kl", "1e9", "--min-agreement", "0")
POLL_S = 0.1


@dataclass(frozen=True)
class Measured:
    """One export.

    Attributes:
        checkpoint: name of the checkpoint's folder.
        precision, engine: what was asked for.
        bundle_bytes: all files of the bundle.
        decoder_bytes, heads_bytes, table_bytes: its large parts.
        seconds: from the start of the process to its end.
        peak_bytes: largest resident memory, mapped file pages included.
        anonymous_bytes: largest of what is not a file's page, polled ten times a second.
        peak_stage: what the exporter was at when its resident memory was largest.
        planned_bytes: what the plan had said.
        stages: seconds of each stage, by what the exporter said when it began.
    """

    checkpoint: str
    precision: str
    engine: str
    bundle_bytes: int
    decoder_bytes: int
    heads_bytes: int
    table_bytes: int
    seconds: float
    peak_bytes: int
    anonymous_bytes: int
    peak_stage: str
    planned_bytes: int
    stages: Mapping[str, float]


class _Watch:
    """Polls the memory of a process, and what it says that it is doing, until it ends."""

    def __init__(self, pid: int, said: Path) -> None:
        self.anonymous_bytes = 0
        self.resident_bytes = 0
        self.high_water_bytes = 0
        self.peak_stage = "start"
        self.stages: dict[str, float] = {}
        self._said = said
        self._process = psutil.Process(pid)
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()

    def _poll(self) -> None:
        while True:
            try:
                info = self._process.memory_info()
            except psutil.Error:
                return
            self.high_water_bytes = max(self.high_water_bytes, self._high_water(), info.rss)
            stage = self._stage()
            self.stages[stage] = self.stages.get(stage, 0.0) + POLL_S
            self.anonymous_bytes = max(self.anonymous_bytes, info.rss - info.shared)
            if info.rss > self.resident_bytes:
                self.resident_bytes, self.peak_stage = info.rss, stage
            time.sleep(POLL_S)

    def _high_water(self) -> int:
        """Peak of resident memory as Linux counts it; 0 where it cannot be read.

        The peak in a child's resource usage would not do: it begins with the memory that the
        measuring process had when it started the child.
        """
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        except OSError:
            return 0
        lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(lines[0].split()[1]) * 1024 if lines else 0

    def _stage(self) -> str:
        lines = self._said.read_text(errors="replace").splitlines()
        begun = [line for line in lines if line.startswith("... ")]
        return begun[-1].removeprefix("... ").split(",")[0].split("/")[0] if begun else "start"


def measure_export(
    checkpoint: Path,
    precision: str,
    engine: str,
    folder: Path,
    extra: Sequence[str] = (),
    keep: Path | None = None,
) -> Measured:
    """Export a checkpoint in a child process and measure it.

    Args:
        checkpoint: folder in the released format.
        precision: of the export.
        engine: of the export; those of TensorRT are left without their engines.
        folder: where the bundle is put for a while.
        extra: more words for `ttt-export`.
        keep: where the bundle stays afterwards, on the same disk; None deletes it.

    Raises:
        ExportError: the export failed; its last line of output is in the message.
    """
    from ttt_export.memory_plan import plan_export
    from ttt_export.options import ExportOptions
    from ttt_export.source import open_checkpoint

    recipe = ExportOptions(precision=precision, engine=engine).resolve_recipe()
    plan = plan_export(open_checkpoint(checkpoint), recipe)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        out, said = Path(work) / "bundle", Path(work) / "said"
        words = [sys.executable, "-m", "ttt_export.cli", "-m", str(checkpoint), "-p", precision]
        words += ["-e", engine, "--no-engines", str(out), *OPEN_GATES, *extra]
        start = time.perf_counter()
        with said.open("wb") as log:
            child = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
        watch = _Watch(child.pid, said)
        try:
            _, status = os.waitpid(child.pid, 0)
        except BaseException:  # stopped from outside: the export must not go on alone
            seen = f"{watch.resident_bytes / 1e9:.2f} GB resident at most, {watch.stages}"
            print(f"{checkpoint.name} {precision} stopped; so far {seen}", file=sys.stderr)
            child.terminate()
            child.wait()
            raise
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            lines = said.read_text(errors="replace").strip().splitlines() or ["no output"]
            raise ExportError(f"the export of {checkpoint.name} in {precision} failed: {lines[-1]}")
        sizes = {p.name: p.stat().st_size for p in out.rglob("*") if p.is_file()}
        if keep is None:
            shutil.rmtree(out)
        else:
            out.rename(_kept_path(keep, checkpoint, precision, engine))
    return Measured(
        checkpoint.name,
        precision,
        engine,
        sum(sizes.values()),
        sizes["decoder.onnx"] + sizes["decoder.onnx.data"],
        sum(size for name, size in sizes.items() if "_head.onnx" in name),
        sum(size for name, size in sizes.items() if name.startswith("embeddings.")),
        seconds,
        watch.high_water_bytes,
        watch.anonymous_bytes,
        watch.peak_stage,
        plan.peak_bytes,
        {stage: round(spent, 1) for stage, spent in watch.stages.items()},
    )


def _kept_path(keep: Path, checkpoint: Path, precision: str, engine: str) -> Path:
    return keep / f"{checkpoint.name}-{precision}-{engine}"


def table(rows: Sequence[Measured]) -> str:
    """Return the measurements as a Markdown table; GB and MB are powers of ten."""
    lines = [
        "| checkpoint | precision | bundle | decoder | heads | embeddings | time "
        "| peak resident | planned | of it anonymous | peak while |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        parts = (row.bundle_bytes, row.decoder_bytes, row.heads_bytes, row.table_bytes)
        memory = (row.peak_bytes, row.planned_bytes, row.anonymous_bytes)
        lines.append(
            f"| {row.checkpoint} | {row.precision} {row.engine} "
            f"| {' | '.join(f'{part / 1e6:,.0f} MB' for part in parts)} | {row.seconds:.0f} s "
            f"| {' | '.join(f'{part / 1e9:.2f} GB' for part in memory)} | {row.peak_stage} |"
        )
    return "\n".join(lines)


def read_results(path: Path) -> list[Measured]:
    """Read what was measured before; nothing if there is no such file yet.

    Raises:
        ConfigError: a line is no measurement.
        OSError: the file cannot be read, or its folder is missing.
    """
    path.absolute().parent.stat()
    rows: list[Measured] = []
    for number, line in enumerate(read_bytes(path).splitlines() if path.exists() else [], 1):
        try:
            rows.append(Measured(**parse_json(line, strict=False)))
            table(rows[-1:])  # fails unless its figures are numbers
        except (ValueError, TypeError):
            raise ConfigError(
                f"{path} line {number} is no measurement of this program; remove the line or give "
                "another --results file"
            ) from None
    return rows


def measure_command(
    checkpoints: Annotated[list[Path], typer.Argument(help="Checkpoint folders.")],
    precision: Annotated[
        list[str] | None, typer.Option("--precision", "-p", help="Default: fp16, int8 and int4.")
    ] = None,
    engine: Annotated[str, typer.Option("--engine", "-e", help="What will run it.")] = "cpu",
    folder: Annotated[
        Path, typer.Option(help="Where bundles are put for a while; needs room for the largest.")
    ] = Path("."),
    results: Annotated[
        Path | None, typer.Option(help="JSON lines: what stands there is not measured again.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Keep the bundles in this folder (same disk as --folder).")
    ] = None,
) -> None:
    """Measure time, peak memory and size of exports."""
    from ttt_export.options import ExportOptions
    from ttt_export.source import open_checkpoint

    rows = [] if results is None else read_results(results)
    precisions = precision or ["fp16", "int8", "int4"]
    folder.stat()  # mistakes are reported before anything is measured
    if keep is not None and keep.stat().st_dev != folder.stat().st_dev:
        raise ConfigError(f"--keep {keep} is on another disk than --folder {folder}; choose one")
    for kind in precisions:
        ExportOptions(precision=kind, engine=engine).resolve_recipe()
    for checkpoint in checkpoints:
        open_checkpoint(checkpoint)
    done = {(row.checkpoint, row.precision, row.engine) for row in rows}
    for checkpoint in checkpoints:
        if keep is None:
            break
        for kind in precisions:
            kept = _kept_path(keep, checkpoint.resolve(), kind, engine)
            if kept.exists() and (checkpoint.resolve().name, kind, engine) not in done:
                raise ConfigError(f"{kept} exists; remove it or give another --keep folder")
    for checkpoint in checkpoints:
        for kind in precisions:
            if (checkpoint.resolve().name, kind, engine) in done:
                continue
            row = measure_export(checkpoint.resolve(), kind, engine, folder, keep=keep)
            rows.append(row)
            print(json.dumps(asdict(row)), file=sys.stderr)
            if results is not None:
                with results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(row)) + "\n")
    typer.echo(table(rows))


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
app.command()(measure_command)


if __name__ == "__main__":
    run_app(app)
