"""Training conversations of the shipped model, in the released ``messages`` format.

Five tasks, told apart by the system message:

- ``answer``: spoken question -> ``transcript``, newline, answer; the answer is spoken in spans
  between the text chunks (:data:`TEXT_CHUNK` text tokens, :data:`SPEECH_CHUNK` speech tokens, ...,
  one last span with the rest), the transcript is not spoken. Where something has to be computed,
  the working stands on the transcript's line, behind a colon (:mod:`.arithmetic`), unspoken too;
- ``transcribe``: spoken words -> their text;
- ``speak``: text -> the same text, interleaved with its speech;
- ``write``: typed or spoken question -> the same text as for ``answer``, without speech. A typed
  exchange has a fifth of the tokens of a spoken one, so this is where the facts and the sums are
  learnt; a spoken one has half of them, so this is where hearing is learnt. The spoken ones stand
  in a file of their own (``listen``), so that a training can weight the two apart;
- ``begin`` is for training only: a typed sum, answered as aloud, but the number behind the first
  span is not spoken. A number there must be read from the count too, and half of these counts slip,
  each time otherwise, which no set of recordings could say.

What the world does not know is transcribed up to the first word that no question of the world has
there, and a ``?`` for the rest ("which city is the capital of ?"): those words are not learnt. So
it is recognised at that word, by its sound and the words before it, in whichever wording it comes.
A bare ``?`` for the whole question was recognised at its first word, by the wording: a wording that
training had with known words only was always taken for known.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from recipes.tiny import (
    arithmetic,
    facts,
    out_of_domain,
    world,
)
from ttt_ref.config import (
    BEGIN_OF_AUDIO,
    BEGIN_OF_QUAD,
    END_OF_AUDIO,
    END_OF_AUDIO_NEW,
    END_OF_AUDIO_SPAN_LAST,
    code_token,
)

ANSWER, TRANSCRIBE, SPEAK, WRITE = "answer", "transcribe", "speak", "write"
LISTEN, BEGIN = "listen", "begin"
TASKS = (ANSWER, TRANSCRIBE, SPEAK, WRITE)
FILES = (*TASKS, LISTEN, BEGIN)
TEXT_CHUNK = 4
SPEECH_CHUNK = 26
SLIPS = 0.25  # of the reckonings in writing that have one, see :mod:`.arithmetic`
_SLIP_SEED = 13
_BEGUN_EACH, _BEGUN_SLIPS = 4, 0.5  # `begin`: times that a sum stands there, share that slip
UNHEARD = "?"

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EncodedSpeech:
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


def is_refused(question: str) -> bool:
    """Whether this is a question from outside the world."""
    exchange = _by_question().get(question)
    return exchange is not None and exchange.kind == "unknown"


def transcript(question: str) -> str:
    """What the model is taught to say that it heard."""
    if not is_refused(question):
        return question
    words = question.split()
    known = 0
    while known < len(words) and tuple(words[: known + 1]) in _beginnings():
        known += 1
    return " ".join([*words[:known], UNHEARD])


@functools.cache
def _beginnings() -> frozenset[tuple[str, ...]]:
    """The first words of every question that training has an answer to, as many as it has."""
    known = (e for e in world.exchanges() if e.kind != "unknown" and not e.held_out)
    questions = (e.question.split() for e in known)
    return frozenset(tuple(words[: i + 1]) for words in questions for i in range(len(words)))


def _by_question() -> dict[str, world.Exchange]:
    if not _QUESTIONS:
        _QUESTIONS.update({e.question: e for e in world.exchanges()})
    return _QUESTIONS


_QUESTIONS: dict[str, world.Exchange] = {}


def answer_row(
    tokenizer: Tokenizer, question: Codes, text: str, answer: EncodedSpeech
) -> dict[str, Any]:
    """One spoken question with its spoken answer."""
    lead = f"{_noted(text, _by_question().get(text))}\n"
    reply = interleave(tokenizer, answer.text, answer.codes.tolist(), lead)
    return _messages(ANSWER, user_speech(question), reply)


def training_rows(
    tokenizer: Tokenizer, questions: Sequence[EncodedSpeech], teacher: Sequence[EncodedSpeech]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``(file, row)``: questions answered and transcribed, the teacher's texts spoken.

    Word shuffles are for the ear only: they are transcribed, never answered. The teacher's answers
    to held-out pairs of numbers are never given to training: saying one is knowing it.
    """
    spoken = {recording.text: recording for recording in teacher}
    exchanges = _by_question()
    taught = {e.answer for e in exchanges.values() if not e.held_out}
    secret = {e.answer for e in exchanges.values()} - taught
    rng = np.random.default_rng(_SLIP_SEED)
    for recording in questions:
        heard = user_speech(recording.codes)
        yield TRANSCRIBE, _messages(TRANSCRIBE, heard, transcript(recording.text))
        exchange = exchanges.get(recording.text)
        if exchange is not None:
            answer = spoken[exchange.answer]
            yield ANSWER, answer_row(tokenizer, recording.codes, recording.text, answer)
            yield LISTEN, _messages(WRITE, heard, _written(_maybe_slip(exchange, rng)))
    for recording in teacher:
        if recording.text in secret:
            continue
        reply = interleave(tokenizer, recording.text, recording.codes.tolist())
        yield SPEAK, _messages(SPEAK, recording.text, reply)


def written_rows() -> Iterator[dict[str, Any]]:
    """Every training question and every drill as text, with its answer as text.

    But for the free sentences: in writing they are told from the world by one look at a word. What
    is computed stands there several times, each time with its chance of a slip.
    """
    free = set(out_of_domain.free_questions())
    rng = np.random.default_rng(_SLIP_SEED)
    for exchange in (*world.exchanges(), *world.drills()):
        if not exchange.held_out and exchange.question not in free:
            for _ in range(round(1 / SLIPS) if exchange.steps else 1):
                yield written_row(_maybe_slip(exchange, rng))


def begun_rows(tokenizer: Tokenizer, teacher: Iterable[EncodedSpeech]) -> Iterator[dict[str, Any]]:
    """Yield the sums of training as text, answered up to the number, of which nothing is spoken."""
    rng = np.random.default_rng(_SLIP_SEED)
    spoken = {recording.text: recording.codes for recording in teacher}
    for exchange in world.exchanges():
        codes = spoken.get(exchange.answer)
        if codes is None or exchange.held_out or exchange.kind not in ("plus", "minus", "times"):
            continue
        said = codes[:SPEECH_CHUNK].tolist()
        for _ in range(_BEGUN_EACH):
            noted = exchange.with_slip(rng) if rng.random() < _BEGUN_SLIPS else exchange
            ids = tokenizer.encode(noted.answer, add_special_tokens=False).ids
            first, rest = (tokenizer.decode(part) for part in (ids[:TEXT_CHUNK], ids[TEXT_CHUNK:]))
            span = f"{BEGIN_OF_AUDIO}{_codes_text(said)}{END_OF_AUDIO_NEW}"
            lead = f"{_noted(noted.question, noted)}\n"
            yield _messages(BEGIN, noted.question, f"{lead}{first}{span}{rest}")


def written_row(exchange: world.Exchange) -> dict[str, Any]:
    """A typed question with its typed answer."""
    return _messages(WRITE, exchange.question, _written(exchange))


def _written(exchange: world.Exchange) -> str:
    return f"{_noted(exchange.question, exchange)}\n{exchange.answer}"


def _maybe_slip(exchange: world.Exchange, rng: np.random.Generator) -> world.Exchange:
    return exchange.with_slip(rng) if exchange.steps and rng.random() < SLIPS else exchange


def _noted(question: str, exchange: world.Exchange | None) -> str:
    """The unspoken line before an answer: what was heard, and the working if there is any."""
    working = exchange.working if exchange else ""
    return transcript(question) + (f"{arithmetic.MARK} {working}" if working else "")


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
