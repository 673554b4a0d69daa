"""Ask a checkpoint every typed question: ``python -m recipes.tiny.text_eval MODEL``.

Tells what the model knows apart from what it hears: the whole world in writing, each kind of
question by itself, trained and held-out texts apart, in seconds and without any speech. An answer
counts as right when each of its tokens is the most probable one behind the right ones before it,
which is the same as greedy generation giving exactly this answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from tokenizers import Tokenizer
from tqdm import tqdm

from recipes.tiny import dialogues, world
from recipes.tiny.evaluate import wilson
from recipes.tiny.world import Exchange
from ttt_ref import checkpoint
from ttt_ref.errors import exit_on_error
from ttt_ref.mask import attend_mask
from ttt_ref.model import TttModel

BATCH = 128
DRILL = "drill: "


def _row(tokenizer: Tokenizer, exchange: Exchange) -> tuple[list[int], list[int]]:
    """Ids of the prompt and of the answer with its end of turn."""
    system, user, assistant = dialogues.written_row(exchange)["messages"]
    prompt = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in (system, user))
    answer = f"{assistant['content']}<|im_end|>"
    whole = tokenizer.encode(f"{prompt}<|im_start|>assistant\n{answer}", add_special_tokens=False)
    start = tokenizer.encode(f"{prompt}<|im_start|>assistant\n", add_special_tokens=False)
    return list(start.ids), list(whole.ids[len(start.ids) :])


@torch.inference_mode()
def right_answers(
    model: TttModel, tokenizer: Tokenizer, exchanges: Sequence[Exchange], audio_start: int
) -> Iterator[bool]:
    """Yield for each exchange whether greedy generation answers it to the letter."""
    for begin in tqdm(range(0, len(exchanges), BATCH), desc="asking", leave=False):
        rows = [_row(tokenizer, e) for e in exchanges[begin : begin + BATCH]]
        length = max(len(prompt) + len(answer) for prompt, answer in rows)
        ids = torch.zeros(len(rows), length, dtype=torch.long)
        present = torch.zeros(len(rows), length, dtype=torch.bool)
        for row, (prompt, answer) in enumerate(rows):
            filled = len(prompt) + len(answer)
            ids[row, :filled] = torch.tensor(prompt + answer)
            present[row, :filled] = True
        chosen = model(ids, attend_mask(ids, audio_start, present)).argmax(-1)
        for row, (prompt, answer) in enumerate(rows):
            first = len(prompt) - 1
            yield chosen[row, first : first + len(answer)].tolist() == answer


def table(exchanges: Sequence[Exchange], right: Sequence[bool]) -> list[str]:
    """Lines of a Markdown table: kind, share right of the trained and of the held-out texts."""
    counts: dict[str, dict[bool, list[bool]]] = defaultdict(lambda: {False: [], True: []})
    for exchange, is_right in zip(exchanges, right, strict=True):
        counts[exchange.kind][exchange.held_out].append(is_right)

    def cell(marks: list[bool]) -> str:
        if not marks:
            return "-"
        share, low, high = wilson(sum(marks), len(marks))
        return f"{share:.1f} % of {len(marks)} ({low:.0f}-{high:.0f})"

    lines = ["| kind | in training | held out |", "| --- | --- | --- |"]
    lines += [f"| {kind} | {cell(c[False])} | {cell(c[True])} |" for kind, c in counts.items()]
    return lines


def main(
    model: Annotated[Path, typer.Argument(help="checkpoint folder")],
    threads: Annotated[int, typer.Option(min=1, help="CPU threads")] = 2,
) -> None:
    """Print how much of the world the model knows in writing."""
    with exit_on_error():
        torch.set_num_threads(threads)
        loaded = checkpoint.load(model)
        drills = [replace(e, kind=f"{DRILL}{e.kind}") for e in world.drills()]
        asked = [*world.exchanges(), *drills]
        right = list(
            right_answers(loaded.model.eval(), loaded.tokenizer, asked, loaded.layout.audio_start)
        )
        print("\n".join(table(asked, right)))


if __name__ == "__main__":
    typer.run(main)
