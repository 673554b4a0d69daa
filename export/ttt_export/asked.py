"""Ask a bundle spoken questions: answers exactly right, and how well its speech is understood.

Divergences tell how far an export is from its checkpoint; whether that matters is told by putting
the test recordings of the recipe of the shipped model to the bundle itself, through the runtime.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttt_ref.errors import ExportError


@dataclass(frozen=True)
class Questions:
    """Which recordings are put to a bundle, and whether whisper-base hears the spoken answers."""

    data: Path
    limit: int = 80
    listen: bool = True
    threads: int = 2

    def check(self) -> None:
        """Read the recordings' list, look for the listener: for before the work.

        Raises:
            DataError: the recordings cannot be asked.
            ConfigError: answers should be listened to, and the listener is not installed.
        """
        from ttt_ref.recipes.tiny.evaluate import open_corpus
        from ttt_ref.recipes.tiny.listener import check_installed

        open_corpus(self.data, self.limit)
        if self.listen:
            check_installed()

    def words(self) -> list[str]:
        """The options of the evaluation program."""
        listen = "--listen" if self.listen else "--no-listen"
        return ["--limit", str(self.limit), "--threads", str(self.threads), listen]


def evaluate(bundle: Path, data: Path, report: Path, words: Sequence[str]) -> dict[str, Any]:
    """Ask a bundle the test recordings in a process of its own; returns the evaluation's report.

    Raises:
        ExportError: the evaluation failed; its last line of output is in the message.
    """
    program = [sys.executable, "-m", "ttt_ref.recipes.tiny.evaluate", str(bundle), str(data)]
    done = subprocess.run(
        [*program, "--report", str(report), *words], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise ExportError(f"the evaluation of {bundle.name} failed: {last}")
    read: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return read


def ask(bundle: Path, questions: Questions) -> dict[str, Any]:
    """Return what the quality report says: the number of recordings and the rows of the table.

    A row is a measure, its value for voices heard in training and that for voices never heard.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = evaluate(
            bundle, questions.data, Path(folder) / "evaluation.json", questions.words()
        )
    clean = sum(not turn["noisy"] for turn in report["turns"])
    return {"recordings": clean, "rows": report["rows"]}
