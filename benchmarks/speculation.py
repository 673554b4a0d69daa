"""Would exact speculation of text steps pay? `python -m benchmarks.speculation [BUNDLE]`.

Speculation drafts several text tokens and verifies them in one forward; greedy ids stay what they
are. Here a draft is what followed the last occurrence of the newest tokens earlier in the
conversation (transcript and answer): it costs nothing, and needs no second model.

Two things decide. *Acceptance* is counted on real text: FILE holds lines of "question, tab, answer"
(default: all exchanges of the included model's domain), tokenized by the bundle. *Cost* is timed on
the bundle: a forward of R rows with the choice of R tokens, against one row. The table joins both:
time per token relative to plain text steps, below 1 pays.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from recipes.tiny import world
from ttt_ref.command_line import run_app
from ttt_ref.errors import DataError
from ttt_runtime.backends.base import Runner
from ttt_runtime.backends.load import load_runner
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.cli.assistant_run import shipped_or
from ttt_runtime.dialogue.prompt import PromptBuilder

CONTEXT_ROWS = 256
ROUNDS = 15
CHUNK_TOKENS = 13  # a span of speech follows: a draft never goes beyond it


@dataclass(frozen=True)
class Policy:
    """Draft at most `most` tokens where the last `match` tokens stood before."""

    match: int
    most: int


@dataclass
class Counts:
    """Forwards by their number of rows, and the tokens that they gave."""

    forwards: dict[int, int]
    tokens: int = 0
    drafted: int = 0
    accepted: int = 0


def draft(history: Sequence[int], policy: Policy) -> list[int]:
    """Return what followed the newest earlier occurrence of the last `match` ids."""
    if len(history) <= policy.match:
        return []
    newest = list(history[-policy.match :])
    for start in range(len(history) - policy.match - 1, -1, -1):
        if list(history[start : start + policy.match]) == newest:
            after = start + policy.match
            return list(history[after : after + policy.most])
    return []


def count(exchanges: Sequence[tuple[list[int], list[int]]], policy: Policy) -> Counts:
    """Decode every answer with drafts; its own ids are what the model would choose."""
    counts = Counts({})
    for question, answer in exchanges:
        done = 0
        while done < len(answer):
            # The forward gives the token after each of its rows; the last one is never a draft.
            room = min(CHUNK_TOKENS - done % CHUNK_TOKENS, len(answer) - done) - 1
            guess = draft([*question, *answer[:done]], policy)[:room]
            right = 0
            while right < len(guess) and guess[right] == answer[done + right]:
                right += 1
            rows = len(guess) + 1
            counts.forwards[rows] = counts.forwards.get(rows, 0) + 1
            counts.drafted += len(guess)
            counts.accepted += right
            counts.tokens += right + 1
            done += right + 1
    return counts


def costs(runner: Runner, most: int) -> dict[int, float]:
    """Return rows -> time of a forward with its choices, relative to one row; medians."""
    for start in range(0, CONTEXT_ROWS, 64):
        runner.forward(list(range(64)), start)
    times: dict[int, list[float]] = {rows: [] for rows in range(1, most + 2)}
    for _ in range(ROUNDS):
        for rows, found in times.items():
            begin = time.perf_counter()
            for _ in range(5):
                hidden = runner.forward(list(range(rows)), CONTEXT_ROWS)
                runner.text_best(hidden, forbid_end=False)
            found.append(time.perf_counter() - begin)
    one = median(times[1])
    return {rows: median(found) / one for rows, found in times.items()}


def read_exchanges(file: Path | None, prompts: PromptBuilder) -> list[tuple[list[int], list[int]]]:
    """Return (question ids, answer ids) of a file's lines, or of the included model's domain."""
    if file is None:
        pairs = [(e.question, e.working + e.answer) for e in world.exchanges()]
    else:
        lines = file.read_text(encoding="utf-8").splitlines()
        pairs = [(q, a) for q, tab, a in (line.partition("\t") for line in lines) if tab]
    if not pairs:
        raise DataError(f"{file} holds no exchange; expected lines of question, tab, answer")
    return [(prompts.encode(q), prompts.encode(a)) for q, a in pairs]


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def command(
    bundle: Annotated[Path | None, typer.Argument(help="Default: the shipped one.")] = None,
    texts: Annotated[Path | None, typer.Option(help="Lines of question, tab, answer.")] = None,
    cost_of: Annotated[
        Path | None, typer.Option(help="Another bundle whose forwards are timed; default: BUNDLE.")
    ] = None,
    most: Annotated[int, typer.Option(min=1, max=12, help="Longest draft.")] = 4,
) -> None:
    """Count drafts that would be accepted, and time what verifying them costs."""
    opened = Bundle.open(shipped_or(bundle))
    exchanges = read_exchanges(texts, PromptBuilder.from_bundle(opened))
    timed = opened if cost_of is None else Bundle.open(cost_of)
    runner = load_runner(timed, "cpu")
    relative = costs(runner, most)
    print("rows of a forward, relative time: ", end="")
    print(", ".join(f"{rows}: {value:.2f}" for rows, value in relative.items()))
    print("| match | draft at most | tokens a forward | accepted | time a token, relative |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for policy in [Policy(m, k) for m in (1, 2, 3) for k in sorted({1, 2, most})]:
        found = count(exchanges, policy)
        forwards = sum(found.forwards.values())
        spent = sum(relative[rows] * number for rows, number in found.forwards.items())
        share = found.accepted / max(1, found.drafted)
        print(
            f"| {policy.match} | {policy.most} | {found.tokens / forwards:.2f} | {share:.0%} of "
            f"{found.drafted} | {spent / found.tokens:.2f} |"
        )


if __name__ == "__main__":
    run_app(app)
