"""Training conversations of the shipped model, in the released ``messages`` format.

Three tasks, told apart by the system message:

- ``answer``: spoken question -> ``transcript``, newline, answer; the answer is spoken in spans
  between the text chunks (:data:`TEXT_CHUNK` text tokens, :data:`SPEECH_CHUNK` speech tokens, ...,
  one last span with the rest), the transcript is not spoken;
- ``transcribe``: spoken words -> their text;
- ``speak``: text -> the same text, interleaved with its speech.

What the world does not know is transcribed as ``?``: its words are not learnt.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from ttt_ref.config import (
    BEGIN_OF_AUDIO,
    BEGIN_OF_QUAD,
    END_OF_AUDIO,
    END_OF_AUDIO_NEW,
    END_OF_AUDIO_SPAN_LAST,
    code_token,
)
from ttt_ref.recipes.tiny import facts, world

ANSWER, TRANSCRIBE, SPEAK = "answer", "transcribe", "speak"
TEXT_CHUNK = 4
SPEECH_CHUNK = 26
UNHEARD = "?"

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Recording:
    """A spoken question or a teacher rendering: its words and its speech tokens."""

    text: str
    kind: str
    codes: Codes


def _codes_text(codes: Iterable[int]) -> str:
    return "".join(code_token(int(code)) for code in codes)


def user_speech(codes: Iterable[int]) -> str:
    """The user's turn: speech tokens between the tags of the prompt."""
    return f"{BEGIN_OF_AUDIO}{_codes_text(codes)}{END_OF_AUDIO}"


def interleave(tokenizer: Tokenizer, text: str, codes: Sequence[int], lead: str = "") -> str:
    """Text chunks and speech spans in turn; ``lead`` is unspoken text before the first chunk."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    chunks = [tokenizer.decode(ids[i : i + TEXT_CHUNK]) for i in range(0, len(ids), TEXT_CHUNK)]
    content, spoken = lead, 0
    for chunk in chunks[:-1]:
        content += chunk
        if len(codes) - spoken > SPEECH_CHUNK:
            span = codes[spoken : spoken + SPEECH_CHUNK]
            content += f"{BEGIN_OF_AUDIO}{_codes_text(span)}{END_OF_AUDIO_NEW}"
            spoken += SPEECH_CHUNK
    content += chunks[-1]
    return f"{content}{BEGIN_OF_QUAD}{_codes_text(codes[spoken:])}{END_OF_AUDIO_SPAN_LAST}"


def _messages(task: str, user: str, assistant: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "system", "content": task},
            {"role": "user", "content": user},
            {"role": "assistant", "content": assistant},
        ]
    }


def transcript(question: str) -> str:
    """What the model is taught to say that it heard."""
    exchange = _by_question().get(question)
    return UNHEARD if exchange is not None and exchange.kind == "unknown" else question


def _by_question() -> dict[str, world.Exchange]:
    if not _QUESTIONS:
        _QUESTIONS.update({e.question: e for e in world.exchanges()})
    return _QUESTIONS


_QUESTIONS: dict[str, world.Exchange] = {}


def corrupt(codes: Codes, rng: np.random.Generator, digits: int = 6, levels: int = 3) -> Codes:
    """Flip a random share (0 to 8 %) of the codes' digits and drop or repeat 1 % of the codes.

    Keeps the model from trusting any single code: other voices and rooms flip digits too.
    """
    powers = levels ** np.arange(digits)
    table = codes[:, None] // powers % levels
    flip = rng.random(table.shape) < rng.uniform(0.0, 0.08)
    table = np.where(flip, rng.integers(0, levels, table.shape), table)
    repeats = rng.choice([0, 1, 2], size=len(codes), p=[0.005, 0.99, 0.005])
    return np.repeat((table * powers).sum(axis=1), repeats)


def answer_row(
    tokenizer: Tokenizer, question: Codes, text: str, answer: Recording
) -> dict[str, Any]:
    """One spoken question with its spoken answer."""
    lead = f"{transcript(text)}\n"
    reply = interleave(tokenizer, answer.text, answer.codes.tolist(), lead)
    return _messages(ANSWER, user_speech(question), reply)


def training_rows(
    tokenizer: Tokenizer, questions: Sequence[Recording], teacher: Sequence[Recording], seed: int
) -> Iterator[dict[str, Any]]:
    """All rows once: every question answered, one in four transcribed too, all texts spoken."""
    rng = np.random.default_rng(seed)
    spoken = {recording.text: recording for recording in teacher}
    world_questions = _by_question()
    for recording in questions:
        codes = corrupt(recording.codes, rng)
        exchange = world_questions.get(recording.text)
        if exchange is None or rng.random() < 0.2:  # word shuffles are for the ear only
            yield _messages(TRANSCRIBE, user_speech(codes), transcript(recording.text))
            continue
        yield answer_row(tokenizer, codes, recording.text, spoken[exchange.answer])
    for recording in teacher:
        reply = interleave(tokenizer, recording.text, recording.codes.tolist())
        for _ in range(4):
            yield _messages(SPEAK, recording.text, reply)


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write JSON lines under a temporary name, then rename; returns the number of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    count = 0
    with temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    os.replace(temporary, path)
    return count


def answer_of(question: str) -> str:
    """The right answer to a question of the world, or the honest refusal."""
    exchange = _by_question().get(question)
    return exchange.answer if exchange else facts.UNKNOWN_ANSWER
