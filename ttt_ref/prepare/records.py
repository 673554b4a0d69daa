"""From words and speech tokens to training records in the published interleave.

An answer is chunks of text tokens and spans of codes in turn (13 and 26 as published), then the
last text and one last span with all codes that remain.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from ttt_ref.config import (
    BEGIN_OF_AUDIO,
    BEGIN_OF_QUAD,
    END_OF_AUDIO,
    END_OF_AUDIO_NEW,
    END_OF_AUDIO_SPAN_LAST,
    code_token,
)
from ttt_ref.errors import ConfigError

TASKS = ("answer", "transcribe", "speak", "text")


@dataclass(frozen=True)
class Ratio:
    """Text tokens of a chunk and codes of a span."""

    text: int = 13
    speech: int = 26

    @classmethod
    def parse(cls, words: str) -> Ratio:
        """Read `TEXT:SPEECH`; ConfigError if it is none."""
        text, _, speech = words.partition(":")
        if not text.isascii() or not text.isdigit() or not speech.isdigit():
            raise ConfigError(f"--ratio is {words!r}; expected TEXT:SPEECH, such as 13:26")
        if int(text) < 1 or int(speech) < 1:
            raise ConfigError(f"--ratio is {words!r}; both numbers must be 1 or more")
        return cls(int(text), int(speech))


def codes_text(codes: Sequence[int]) -> str:
    """Return codes as the text of their tokens."""
    return "".join(code_token(code) for code in codes)


def heard(codes: Sequence[int]) -> str:
    """Return what a user says, as the content of his turn."""
    return f"{BEGIN_OF_AUDIO}{codes_text(codes)}{END_OF_AUDIO}"


def text_chunks(tokenizer: Tokenizer, text: str, size: int) -> list[str]:
    """Cut a text into chunks of `size` tokens; a chunk that would cut a character is longer."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    chunks: list[str] = []
    begin = taken = 0
    for number, (_, end) in enumerate(encoding.offsets, 1):
        last = number == len(encoding.offsets)
        # Tokens that share a character end at the same offset: cut behind the last of them.
        shared = not last and encoding.offsets[number][0] < end
        if last or (number - taken >= size and not shared):
            end = len(text) if last else end
            chunks.append(text[begin:end])
            begin, taken = end, number
    return chunks


def interleave(tokenizer: Tokenizer, text: str, codes: Sequence[int], ratio: Ratio) -> str:
    """Return an answer: chunks of `text` and spans of `codes` in turn.

    When the codes run short before the text does, the rest of the text comes in one piece before
    the last span, which always has at least one code.
    """
    chunks = text_chunks(tokenizer, text, ratio.text)
    content, spoken = "", 0
    for chunk in chunks[:-1]:
        content += chunk
        if len(codes) - spoken > ratio.speech:
            span = codes[spoken : spoken + ratio.speech]
            content += f"{BEGIN_OF_QUAD}{codes_text(span)}{END_OF_AUDIO_NEW}"
            spoken += ratio.speech
    content += chunks[-1] if chunks else ""
    return f"{content}{BEGIN_OF_QUAD}{codes_text(codes[spoken:])}{END_OF_AUDIO_SPAN_LAST}"


def record(
    task: str,
    system: Mapping[str, str],
    tokenizer: Tokenizer,
    ratio: Ratio,
    text: str,
    codes: Sequence[int],
    answer: str = "",
    answer_codes: Sequence[int] = (),
) -> dict[str, Any]:
    """Return one training record.

    Args:
        task: answer (speech -> answer in text and speech), transcribe (speech -> its words, with
            the user's own codes again, as published), speak (text -> text and speech), text (no
            conversation: words and their codes, as in pre-training).
        system: task -> system text; a task without one gets an empty system turn.
        tokenizer: the checkpoint's.
        ratio: of the interleave.
        text, codes: what was said.
        answer, answer_codes: what was answered (task answer only).
    """
    if task == "text":
        return {"text": interleave(tokenizer, text, codes, ratio)}
    user = text if task == "speak" else heard(codes)
    said = (answer, answer_codes) if task == "answer" else (text, codes)
    messages = [
        {"role": "system", "content": system.get(task, "")},
        {"role": "user", "content": user},
        {"role": "assistant", "content": interleave(tokenizer, *said, ratio)},
    ]
    return {"messages": messages}


def is_held_out(key: str, share: float) -> bool:
    """Tell whether a speaker belongs to the held-out part: the same in every run and order."""
    return zlib.crc32(key.encode()) / 2**32 < share
