"""Evaluate a bundle on spoken questions: answers exactly right, and how well its speech is heard.

Divergences tell how far an export is from its checkpoint; whether that matters shows on putting
recordings to the bundle itself, through the runtime. The evaluation is a program of its own, since
which answer is right depends on the model: by default that of the recipe of the shipped model. It
is called as

    PROGRAM BUNDLE DATA --report FILE --limit N --threads N --listen|--no-listen
    PROGRAM BUNDLE DATA --check ...      # the recordings only, before the work

and writes a JSON object with `rows` (measure, heard voices, new voices) and `turns`.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ttt_ref.bounded import MIB, read_json
from ttt_ref.errors import ConfigError, ExportError

RECIPE_EVALUATION: Final = "python -m recipes.tiny.evaluate"


@dataclass(frozen=True)
class EvaluationOptions:
    """Which recordings are put to a bundle, by which program, and whether the answers are heard.

    Attributes:
        data: the recordings, in the form that the program takes.
        limit: about how many of them.
        listen: a speech recogniser judges the spoken answers.
        threads: CPU threads.
        program: the command; a leading `python` is this interpreter.
    """

    data: Path
    limit: int = 80
    listen: bool = True
    threads: int = 2
    program: str = RECIPE_EVALUATION

    def __post_init__(self) -> None:
        """Refuse a program that is no command."""
        try:
            words = shlex.split(self.program)
        except ValueError as error:
            raise ConfigError(f"the evaluation program {self.program!r}: {error}") from None
        if not words:
            raise ConfigError("the evaluation program is empty; give a command")

    def command(self, bundle: Path, *more: str) -> list[str]:
        """Return the command line that evaluates a bundle."""
        words = shlex.split(self.program)
        if words[0] in ("python", "python3"):
            words[0] = sys.executable
        listen = "--listen" if self.listen else "--no-listen"
        options = ["--limit", str(self.limit), "--threads", str(self.threads), listen]
        return [*words, str(bundle), str(self.data), *options, *more]

    def check(self) -> None:
        """Let the program look at the recordings: for before the work.

        Raises:
            ConfigError: they cannot be put to a bundle, or the program cannot be run; its last
                line of output is in the message.
        """
        failed = _run(self.command(Path("none"), "--check"))
        if failed is not None:
            raise ConfigError(f"--evaluate {self.data}: {failed}")


def _run(command: Sequence[str]) -> str | None:
    """Run a program; return its last line if it failed, None if it did not."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{command[0]} cannot be run: {error.strerror}"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines() or ["no output"]
    if "No module named" in lines[-1] and "recipes" in lines[-1]:
        return (
            "the evaluation of the recipe is not installed; run from a clone of the project, or "
            "name a program with --evaluate-with"
        )
    return lines[-1].removeprefix("error: ")


def run_program(bundle: Path, options: EvaluationOptions, report: Path) -> dict[str, Any]:
    """Evaluate a bundle in a process of its own; returns the program's report.

    Raises:
        ExportError: the evaluation failed; its last line of output is in the message.
    """
    failed = _run(options.command(bundle, "--report", str(report)))
    if failed is not None:
        raise ExportError(f"the evaluation of {bundle.name} failed: {failed}")
    try:
        read: dict[str, Any] = read_json(report, 64 * MIB, ExportError, strict=False)
    except (OSError, ExportError) as error:
        raise ExportError(f"the evaluation of {bundle.name} left no report: {error}") from None
    return read


def evaluate(bundle: Path, options: EvaluationOptions) -> dict[str, Any]:
    """Return what the quality report says: the number of recordings and the rows of the table.

    A row is a measure, its value for voices heard in training and that for voices never heard.

    Raises:
        ExportError: see `run_program`.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = run_program(bundle, options, Path(folder) / "evaluation.json")
    clean = sum(not turn["noisy"] for turn in report["turns"])
    return {"recordings": clean, "rows": report["rows"]}
