"""What a run leaves to read: a JSONL file, TensorBoard scalars and a progress line."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ttt_ref.bounded import parse_json, read_lines
from ttt_ref.train.config import LogSection


def keep_until(path: Path, step: int) -> None:
    """Drop the log lines after `step`, which a resumed run is about to write again."""
    if not path.exists():
        return
    kept = []
    for line in map(str.rstrip, read_lines(path)):
        try:
            if int(parse_json(line, strict=False).get("step", 0)) <= step:
                kept.append(line)
        except (ValueError, OverflowError, TypeError, AttributeError):
            continue  # a line cut short by a crash
    path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


class RunLog:
    """Writes on the main process only; on the others every call does nothing."""

    def __init__(self, folder: Path, section: LogSection, main: bool, step: int) -> None:
        self.main = main
        self.started = time.monotonic()
        if not main:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "log.jsonl"
        keep_until(self.path, step)
        self.file = self.path.open("a", encoding="utf-8")
        self.board: Any = None
        if section.tensorboard:
            # Imported here: it is slow, and a run without it should not need the package.
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self.console = Console(stderr=True)
        self.bar: Progress | None = None
        if section.progress and sys.stderr.isatty():
            self.bar = Progress(
                TextColumn("training"),
                BarColumn(),
                TextColumn("{task.percentage:.1f}%"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[line]}", markup=False),
                console=self.console,
            )
            self.bar.start()
            self.task = self.bar.add_task("training", total=1.0, line="")

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Record one line of figures of a kind (`train`, `eval`, ...) at a step."""
        if not self.main:
            return
        record = {"kind": kind, "step": step} | {k: round(v, 7) for k, v in values.items()}
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(f"{kind}/{name}", value, step)

    def say(self, line: str) -> None:
        """One line for the person at the terminal."""
        if self.main:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def progress(self, share: float, line: str) -> None:
        """Move the bar; without a terminal the line is printed instead."""
        if not self.main:
            return
        if self.bar is not None:
            self.bar.update(self.task, completed=share, line=line)
        else:
            self.say(f"{100 * share:5.1f}%  {line}")

    def close(self) -> None:
        """Flush and close everything."""
        if not self.main:
            return
        if self.bar is not None:
            self.bar.stop()
        if self.board is not None:
            self.board.close()
        self.file.close()
