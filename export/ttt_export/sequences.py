"""Token sequences that calibration and the quality report look at."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ttt_export.cases import SequenceMaker
from ttt_export.source import Checkpoint
from ttt_ref.bounded import parse_json, read_lines
from ttt_ref.config import TokenLayout
from ttt_ref.errors import ExportError

IntArray = NDArray[np.int64]

# A checkpoint that carries this file is calibrated and evaluated on it without an option.
CALIBRATION_FILE = "calibration.jsonl"
MAX_SEQUENCE = 1024
SYNTHETIC_COUNT = 12
# Of given sequences every fourth is kept from calibration and judges the result.
HELD_OUT_EVERY = 4
_TURN = ("role", "content")

_SENTENCES = (
    "What is the capital of France?",
    "Set a timer for ten minutes, please.",
    "How many days are there in a week?",
    "Tell me a short story about a lighthouse and the sea.",
    "The opposite of hot is cold, and the opposite of early is late.",
    "It is twenty past seven, and the sun has just come up over the hills.",
    "I don't know that, but I can help you to look it up.",
    "Seven times eight is fifty-six.",
)


@dataclass(frozen=True)
class Sequences:
    """Sequences for calibration and, apart from them, for judging.

    `described` says in words where they come from; it goes into the report.
    """

    calibration: tuple[IntArray, ...]
    judged: tuple[IntArray, ...]
    described: str


def load_sequences(checkpoint: Checkpoint, path: Path | None = None, seed: int = 0) -> Sequences:
    """Return sequences from a file, from the checkpoint's own, or else synthetic ones.

    Args:
        checkpoint: gives tokenizer, layout and its own file.
        path: JSON lines, each `{"ids": [...]}` or `{"messages": [{"role", "content"}, ...]}`.
        seed: draws the synthetic sequences.

    Raises:
        ExportError: the file is missing, a line is wrong, or there are too few sequences.
    """
    own = checkpoint.path / CALIBRATION_FILE
    if path is None and os.path.lexists(own):
        path = own
    if path is None:
        made = [_synthetic(checkpoint, seed + number) for number in range(2 * SYNTHETIC_COUNT)]
        return Sequences(
            tuple(made[SYNTHETIC_COUNT:]),
            tuple(made[:SYNTHETIC_COUNT]),
            f"synthetic conversations (random speech tokens, seed {seed})",
        )
    read = _read(path, checkpoint.tokenizer, checkpoint.layout)
    if len(read) < 2:
        raise ExportError(
            f"{path} has {len(read)} sequences; at least 2 are needed, one to calibrate on and one "
            "to judge by: add lines, or remove the file for synthetic sequences"
        )
    judged = read[::HELD_OUT_EVERY]
    rest = [ids for number, ids in enumerate(read) if number % HELD_OUT_EVERY]
    return Sequences(tuple(rest), tuple(judged), f"sequences of {path.name}")


def _read(path: Path, tokenizer: Tokenizer, layout: TokenLayout) -> list[IntArray]:
    if not path.exists():
        raise ExportError(f"no file of sequences at {path}; check the path")
    found = []
    for number, line in enumerate(read_lines(path, error=ExportError), 1):
        if not line.strip():
            continue
        try:
            ids = _ids_of(parse_json(line), tokenizer)
        except (ValueError, KeyError, TypeError):
            raise ExportError(
                f'{path} line {number} is neither {{"ids": [whole numbers]}} nor {{"messages": '
                '[{"role": text, "content": text}, ...]}; mend or remove the line'
            ) from None
        if not ids or min(ids) < 0 or max(ids) >= layout.vocab_size:
            raise ExportError(
                f"{path} line {number} is empty or has ids outside 0 .. {layout.vocab_size - 1}; "
                "was it made with another model's tokenizer?"
            )
        found.append(np.array(ids[:MAX_SEQUENCE], dtype=np.int64))
    return found


def _ids_of(record: dict[str, Any], tokenizer: Tokenizer) -> list[int]:
    if "ids" in record:
        # Nothing is converted: int() would make ids of "123", true and 1.5.
        if not all(type(i) is int for i in record["ids"]):
            raise TypeError("ids are whole numbers")
        return list(record["ids"])
    if not all(isinstance(turn[key], str) for turn in record["messages"] for key in _TURN):
        raise TypeError("turns are texts")
    turns = (f"<|im_start|>{t['role']}\n{t['content']}<|im_end|>\n" for t in record["messages"])
    return list(tokenizer.encode("".join(turns), add_special_tokens=False).ids)


def assistant_opening(checkpoint: Checkpoint) -> list[int]:
    """Return the ids that an assistant's turn begins with."""
    role = checkpoint.tokenizer.encode("assistant\n", add_special_tokens=False).ids
    return [checkpoint.layout.im_start_id, *role]


def _synthetic(checkpoint: Checkpoint, seed: int) -> IntArray:
    """Return a conversation in the model's format: a spoken question, an interleaved answer."""
    layout, tokenizer = checkpoint.layout, checkpoint.tokenizer
    make = SequenceMaker(layout, seed)

    def words(number: int) -> list[int]:
        text = _SENTENCES[number % len(_SENTENCES)]
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    def turn(role: str, content: list[int]) -> list[int]:
        opening = tokenizer.encode(f"{role}\n", add_special_tokens=False).ids
        return [layout.im_start_id, *opening, *content, layout.im_end_id]

    question = [layout.begin_of_audio_id, *make.codes(20 + seed % 13), layout.end_of_audio_id]
    answer = [
        *words(seed)[:13],
        layout.begin_of_audio_id,
        *make.codes(26),
        layout.end_of_audio_new_id,
        *words(seed + 3)[:13],
        layout.begin_of_quad_id,
        *make.codes(26 + seed % 20),
        layout.end_of_audio_span_last_id,
    ]
    ids = [
        *turn("system", words(seed + 1)),
        *turn("user", question),
        *turn("assistant", answer),
    ]
    return np.array(ids, dtype=np.int64)
