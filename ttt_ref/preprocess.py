"""Records to training examples: chat template, labels, and the cut of the last span (SST).

The released loader's habits are kept where a figure depends on them, and two of its slips can be
corrected by name in :class:`PreprocessConfig`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from ttt_ref.batch import IGNORE, Example
from ttt_ref.config import (
    BEGIN_OF_QUAD,
    END_OF_AUDIO_SPAN_LAST,
    IM_END,
    IM_START,
    PAD,
)
from ttt_ref.errors import ConfigError, DataError
from ttt_ref.streams import unencodable

# A span is cut only if longer than this, and never below this many tokens.
UNCUT_SPAN_TOKENS = 10
LEAST_KEPT_TOKENS = 5
KEPT_SHARE = (0.3, 0.9)
_CODE = re.compile(r"<\|audio_\d+\|>")

_FROM_ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


@dataclass(frozen=True)
class PreprocessConfig:
    """Options of preprocessing.

    Attributes:
        max_len: longest example in tokens; more is cut at the right.
        quad_span_truncation_prob: SST, probability of cutting an answer's last span short.
        multi_turn_prompts: ``"released"`` takes the SUM of system and user turns for the length
            of a prompt prefix: right for one turn, but with more turns the first answers' speech
            is not masked and a later user's speech may be. ``"fixed"`` masks the speech of the
            assistant's turns and nothing else.
        truncation_draw: ``"once"`` draws the cut of an example once for the whole training, as
            the released cache does; ``"per_epoch"`` draws it anew in each epoch.
        truncation_turns: ``"all"`` cuts any assistant turn, also one that a user turn follows,
            as released; ``"last"`` only the last turn, where an unfinished answer makes sense.
        seed: seed of the draws.
    """

    max_len: int = 2048
    quad_span_truncation_prob: float = 0.5
    multi_turn_prompts: str = "released"
    truncation_draw: str = "once"
    truncation_turns: str = "all"
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.max_len, int) or self.max_len < 1:
            raise ConfigError(f"preprocess: max_len must be an integer >= 1, got {self.max_len!r}")
        if not 0 <= self.quad_span_truncation_prob <= 1:
            raise ConfigError(
                "preprocess: quad_span_truncation_prob must lie in 0..1, got "
                f"{self.quad_span_truncation_prob!r}"
            )
        for name, choices in (
            ("multi_turn_prompts", ("released", "fixed")),
            ("truncation_draw", ("once", "per_epoch")),
            ("truncation_turns", ("all", "last")),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"preprocess: {name} must be one of {', '.join(choices)}, "
                    f"got {getattr(self, name)!r}"
                )


class Encoder:
    """Turns records into examples with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, config: PreprocessConfig) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self._im_start = self._special(IM_START)
        self._im_end = self._special(IM_END)
        self._pad = self._special(PAD)
        self._newline = self._encode("\n")
        vocab = tokenizer.get_vocab(with_added_tokens=True)
        self._codes = frozenset(token for token in vocab if _CODE.fullmatch(token))

    def encode(self, record: Mapping[str, Any], rng: random.Random) -> Example:
        """Return the example of one record, cut to ``max_len``.

        Args:
            record: ``{"text": str}``, or ``{"messages": [...]}`` / ``{"conversations": [...]}``
                with role/content or from/value entries. ``text`` wins over ``conversations``, and
                that over ``messages``.
            rng: draws the truncation.

        Raises:
            DataError: a record of another form, or a speech code that the tokenizer does not have
                (it would be learnt as a dozen pieces of text).
        """
        if isinstance(record.get("text"), str):
            self._check_codes(record["text"])
            return self.encode_text(record["text"])
        messages = read_messages(record)
        for message in messages:
            self._check_codes(message["content"])
        return self.encode_messages(messages, rng)

    def _check_codes(self, text: str) -> None:
        unknown = set(_CODE.findall(text)) - self._codes
        if unknown:
            raise DataError(
                f"{min(unknown)} is no speech code of this tokenizer, which has "
                f"{len(self._codes)}; encode the audio with the codec that the model was made for"
            )

    def encode_text(self, text: str) -> Example:
        """Return plain text as an example: every token is learnt, there is no prompt."""
        ids = self._encode(text)[: self.config.max_len]
        labels = [IGNORE if token == self._pad else token for token in ids]
        return Example(ids, labels, [True] * len(ids), 0)

    def encode_messages(self, messages: Sequence[Mapping[str, str]], rng: random.Random) -> Example:
        """Return a conversation as an example.

        Each piece (role line, newline, content) is tokenized on its own, so tokens never merge
        across them. Learnt are the answers with their ``<|im_end|>`` and newline. A missing
        system message gives an empty system turn; a first message that is not the user's is
        dropped as a turn.

        Args:
            messages: role/content pairs, at least one.
            rng: draws one number for each assistant turn, and a second one for each cut.
        """
        system = next((m["content"] for m in messages if m["role"] == "system"), "")
        turns = messages if messages[0]["role"] == "user" else messages[1:]
        last_answer = max((i for i, m in enumerate(turns) if m["role"] == "assistant"), default=-1)

        ids = [self._im_start, *self._encode("system"), *self._newline]
        ids += [*self._encode(system), self._im_end, *self._newline]
        learnt = [False] * len(ids)
        prompt_length = len(ids)
        for index, message in enumerate(turns):
            role, content = message["role"], message["content"]
            header = [*self._encode(IM_START + role), *self._newline]
            cut = False
            if role == "assistant":
                # The released loader draws for every turn, even at probability 0.
                shortened = self.cut_last_span(content, rng)
                if index == last_answer or self.config.truncation_turns == "all":
                    cut = shortened is not None
                    content = content if shortened is None else shortened
            body = self._encode(content)
            if not cut:  # a cut answer is unfinished: it has no end
                body += [self._im_end, *self._newline]
            ids += header + body
            learnt += [False] * len(header) + [role == "assistant"] * len(body)
            if role == "user":
                prompt_length += len(header) + len(body)
        labels = [token if known else IGNORE for token, known in zip(ids, learnt, strict=True)]
        if self.config.multi_turn_prompts == "released":
            maskable = [position >= prompt_length for position in range(len(ids))]
        else:
            maskable = learnt
        return Example(ids, labels, maskable, prompt_length).cut(self.config.max_len)

    def cut_last_span(self, content: str, rng: random.Random) -> str | None:
        """Cut the last ``<|begin_of_quad|>`` span short (SST); None leaves the answer as it is.

        Only a span closed by ``<|end_of_audio_span_last|>`` and longer than 10 tokens is cut, to
        k tokens, k uniform in [max(int(0.3 n), 5), int(0.9 n)]. Everything after it is dropped.
        """
        if rng.random() > self.config.quad_span_truncation_prob:
            return None
        before, begin, rest = content.rpartition(BEGIN_OF_QUAD)
        span, end, _ = rest.partition(END_OF_AUDIO_SPAN_LAST)
        if not begin or not end:
            return None
        tokens = self._encode(span)
        if len(tokens) <= UNCUT_SPAN_TOKENS:
            return None
        least = max(int(len(tokens) * KEPT_SHARE[0]), LEAST_KEPT_TOKENS)
        most = int(len(tokens) * KEPT_SHARE[1])
        kept = tokens[: rng.randint(least, most)]
        decoded: str = self.tokenizer.decode(kept, skip_special_tokens=False)
        return before + begin + decoded

    def _encode(self, text: str) -> list[int]:
        if half := unencodable(text):
            raise DataError(f"a text holds half a character ({half}); write the file in UTF-8")
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _special(self, token: str) -> int:
        token_id = self.tokenizer.token_to_id(token)
        if token_id is None:
            raise DataError(f"the tokenizer has no {token} token; use the checkpoint's own")
        return int(token_id)


def read_messages(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the role/content messages of a record.

    Raises:
        DataError: neither form, an empty conversation, an unknown role, content that is no
            text, or a system message that is not the first one.
    """
    raw = record.get("conversations")
    raw = record.get("messages") if raw is None else raw
    if raw is None:
        if "prompt" in record and "response" in record:
            raise DataError(
                "record with 'prompt' and 'response'; write it as 'messages' with the roles user "
                "and assistant"
            )
        keys = ", ".join(map(repr, record)) or "none"
        raise DataError(f"record has the keys {keys}; expected 'messages' or 'text'")
    if not isinstance(raw, Sequence) or isinstance(raw, str) or not raw:
        raise DataError("a conversation must be a list with at least one message")
    messages = [_read_message(entry) for entry in raw]
    for index, message in enumerate(messages):
        if message["role"] == "system" and index > 0:
            raise DataError(
                f"message {index + 1} has the role system; only the first message may have it"
            )
    return messages


def _read_message(entry: object) -> dict[str, str]:
    if not isinstance(entry, Mapping):
        raise DataError(f"a message must be a table, got {type(entry).__name__}")
    if "from" in entry:
        role, content = _FROM_ROLES.get(str(entry["from"])), entry.get("value")
        named = entry["from"]
    else:
        named, content = entry.get("role"), entry.get("content")
        role = str(named) if named in _FROM_ROLES.values() else None
    if role is None:
        raise DataError(f"message role {named!r}; expected system, user or assistant")
    if not isinstance(content, str):
        raise DataError(f"{role} message has no text content, got {type(content).__name__}")
    return {"role": role, "content": content}
