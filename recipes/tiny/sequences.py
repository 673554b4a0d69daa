"""Give a checkpoint real token sequences: ``python -m recipes.tiny.sequences``.

The exporter calibrates and judges quantization on what it finds in a checkpoint's
``calibration.jsonl``. Here that is encoded conversations of the recipe: mostly spoken questions
with their answers and read-out texts, for speech is what quantization harms first, and some
transcriptions; those that training did not see wherever there are such. The file belongs to one
text and one speech tokenizer: make it again whenever either was trained anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from tokenizers import Tokenizer

from recipes.tiny.dialogues import ANSWER, SPEAK, TRANSCRIBE
from ttt_ref.errors import DataError, exit_on_error
from ttt_ref.tokenizer_files import load_tokenizer

FILE = "calibration.jsonl"
SHARES = {ANSWER: 0.55, TRANSCRIBE: 0.1, SPEAK: 0.35}


def conversations(folder: Path, task: str, count: int) -> list[list[dict[str, str]]]:
    """Return `count` conversations of a task, evenly spread over its file.

    Raises:
        DataError: the folder has no file of this task.
    """
    for split in ("valid", "train"):
        path = folder / f"{split}-{task}.jsonl"
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            picked = np.linspace(0, len(lines) - 1, min(count, len(lines))).astype(int)
            return [json.loads(lines[i])["messages"] for i in picked]
    raise DataError(f"{folder} has no valid-{task}.jsonl or train-{task}.jsonl; run `build` first")


def encode(tokenizer: Tokenizer, messages: list[dict[str, str]]) -> list[int]:
    """Return the ids of a conversation in the released chat format."""
    turns = (f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    return list(tokenizer.encode("".join(turns), add_special_tokens=False).ids)


def write_sequences(dialogues: Path, checkpoint: Path, count: int, seed: int) -> int:
    """Write the checkpoint's sequences in a drawn order; returns their number."""
    tokenizer = load_tokenizer(checkpoint)
    made: list[list[int]] = []
    for task, share in SHARES.items():
        rows = conversations(dialogues, task, round(share * count))
        made += [encode(tokenizer, messages) for messages in rows]
    order = np.random.default_rng(seed).permutation(len(made))
    lines = [json.dumps({"ids": made[i]}, separators=(",", ":")) for i in order]
    (checkpoint / FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def main(
    dialogues: Annotated[Path, typer.Argument(help="folder that `build` wrote")],
    checkpoint: Annotated[Path, typer.Argument(help="checkpoint to give the sequences to")],
    count: Annotated[int, typer.Option(min=4, help="sequences in all")] = 320,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Write CHECKPOINT/calibration.jsonl."""
    with exit_on_error():
        number = write_sequences(dialogues, checkpoint, count, seed)
        size = (checkpoint / FILE).stat().st_size
        print(f"{checkpoint / FILE}: {number} conversations, {size} bytes")


if __name__ == "__main__":
    typer.run(main)
