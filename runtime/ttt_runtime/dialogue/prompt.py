"""Prompts: the chat template of the checkpoint, built piece by piece from token ids.

A conversation is a list of turns; a turn is written as

    <|im_start|>role \n content <|im_end|> \n

where role, newline and content are tokenized each on its own, as in training, so that no token
ever spans two of them. Speech stands in a content as <|begin_of_audio|> codes <|end_of_audio|>.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from ttt_ref.bounded import read_json, read_toml
from ttt_ref.config import TokenLayout
from ttt_ref.errors import BundleError, ConfigError
from ttt_ref.released import ADDED_NOTE, NO_SPEAK, is_released, prompts_or_released
from ttt_ref.streams import unencodable
from ttt_runtime.bundle.folder import Bundle

Task = Literal["answer", "transcribe", "speak", "ask", "chat"]
TASKS: tuple[Task, ...] = ("answer", "transcribe", "speak", "ask", "chat")


@dataclass(frozen=True)
class Prompts:
    """The bundle's `prompts` table: one system text a task, and the form of the answers.

    `answer` and `transcribe` take speech, `speak` and `chat` a text, `ask` an instruction with the
    speech behind it.

    `transcript_first`: an answer's text is the question as it was heard, a newline, the answer;
    only the answer is spoken.

    `working_mark`: what follows this character on the transcript's line is the model's own note,
    such as a written-out computation; it is neither heard nor said. Empty: there is none.

    `single_turn`: the model has learnt questions without anything before them; it gets no history.

    `published`: the model has the published token layout; its makers gave no text for `speak`.
    """

    system: Mapping[str, str] = field(default_factory=dict)
    transcript_first: bool = False
    working_mark: str = ""
    single_turn: bool = False
    published: bool = False

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Prompts:
        """Read the table; BundleError on a wrong type or an unknown key."""
        unknown = data.keys() - {"system", "transcript_first", "working_mark", "single_turn"}
        system = data.get("system", {})
        first = data.get("transcript_first", False)
        mark = data.get("working_mark", "")
        single = data.get("single_turn", False)
        texts = isinstance(system, dict) and all(isinstance(t, str) for t in system.values())
        marks = isinstance(mark, str) and len(mark) <= 1 and mark != "\n"
        flags = isinstance(first, bool) and isinstance(single, bool)
        if unknown or not texts or not flags or not marks:
            raise BundleError(
                "the bundle's prompts must hold system (task -> text), transcript_first "
                "and single_turn (true or false) and working_mark (a character or none), not "
                f"{dict(data)!r:.80}"
            )
        return cls(dict(system), first, mark, single)

    def system_text(self, task: Task) -> str:
        """Return the system text of a task; BundleError if the model was not made for it."""
        if task not in self.system:
            if task == "speak" and self.published:
                raise BundleError(NO_SPEAK)
            known = ", ".join(self.system) or "none"
            raise BundleError(f"this bundle knows no task {task!r} (its tasks: {known})")
        return self.system[task]

    def split_answer(self, text: str) -> tuple[str, str]:
        """Split an answer's text into what was heard and what is answered.

        Without `transcript_first` nothing was written down: the first part is empty. A text that
        has no newline yet is still the transcript.
        """
        if not self.transcript_first:
            return "", text.strip()
        heard, _, answer = text.partition("\n")
        if self.working_mark:
            heard = heard.partition(self.working_mark)[0]
        return heard.strip(), answer.strip()


def read_prompts(path: Path) -> dict[str, Any]:
    """Read a `prompts` table from a TOML or JSON file.

    It is the table of a bundle (`system`, `transcript_first`, ...) or plainly task = "text" pairs.

    Raises:
        ConfigError: not TOML or JSON in UTF-8, or a table that the runtime would refuse.
        OSError: the file cannot be read.
    """
    read = read_json if path.suffix == ".json" else read_toml
    content = read(path, error=ConfigError)
    if not isinstance(content, dict) or not content:
        raise ConfigError(f'{path} holds no prompts; expected [system] with task = "text" lines')
    if all(isinstance(value, str) for value in content.values()):
        content = {"system": content}
    try:
        found = Prompts.from_dict(content)
    except BundleError as error:
        raise ConfigError(f"{path}: {error}") from None
    if unknown := sorted(found.system.keys() - set(TASKS)):
        known = ", ".join(TASKS)
        raise ConfigError(f"{path}: unknown task {unknown[0]!r}; the tasks are {known}")
    return content


class PromptBuilder:
    """Turns texts and codes into prompt ids.

    Args:
        tokenizer: the checkpoint's text tokenizer.
        layout: ids of the special tokens.
        prompts: system texts.

    Attributes:
        note: what a user should know of the prompts, or "".
    """

    note = ""

    def __init__(self, tokenizer: Tokenizer, layout: TokenLayout, prompts: Prompts) -> None:
        self._tokenizer = tokenizer
        self.layout = layout
        self.prompts = prompts
        self._control_ids = frozenset(
            (layout.im_start_id, layout.im_end_id, *layout.begin_ids, layout.end_of_audio_id)
        )
        self._newline = self.encode("\n")
        self._headers = {role: self._header(role) for role in ("system", "user", "assistant")}

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> PromptBuilder:
        """Read the bundle's tokenizer and prompts."""
        name = bundle.config.tokenizer
        if name is None:
            raise BundleError(f"bundle {bundle.config.name} has no tokenizer; export it again")
        try:
            tokenizer = Tokenizer.from_file(str(bundle.file(name)))
        except Exception as error:  # tokenizers raises plain Exception
            raise BundleError(f"tokenizer {name} cannot be read: {error}") from None
        layout = bundle.config.layout
        for token, token_id in (
            ("<|im_end|>", layout.im_end_id),
            ("<|audio_0|>", layout.code_offset),
        ):
            if tokenizer.token_to_id(token) != token_id:
                raise BundleError(
                    f"tokenizer {name} gives {token} the id {tokenizer.token_to_id(token)}, the "
                    f"bundle's layout {token_id}; export it again"
                )
        table, added = prompts_or_released(bundle.config.prompts, layout)
        prompts = replace(Prompts.from_dict(table), published=is_released(layout))
        builder = cls(tokenizer, layout, prompts)
        builder.note = ADDED_NOTE if added else ""
        return builder

    def replace_system(self, task: Task, text: str) -> None:
        """Give a task another system text; ConfigError if it spells a control token."""
        self.encode_plain(text)
        self.prompts = replace(self.prompts, system={**self.prompts.system, task: text})

    def encode(self, text: str) -> list[int]:
        """Tokenize text; special tokens written in it are recognised.

        Raises:
            ConfigError: the text holds bytes that are no UTF-8.
        """
        if half := unencodable(text):
            raise ConfigError(f"the text is not UTF-8 (it holds {half}); give it in UTF-8")
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_plain(self, text: str) -> list[int]:
        """Tokenize a user's text; text that spells a special token is refused.

        Otherwise a caller could end his own turn and speak as the system.
        """
        ids = self.encode(text)
        for token_id in ids:
            if token_id >= self.layout.audio_start or token_id in self._control_ids:
                token = self._tokenizer.id_to_token(token_id)
                raise ConfigError(f"the text contains the control token {token}; leave it out")
        return ids

    def speech(self, codes: Iterable[int]) -> list[int]:
        """Return the content ids of the user's speech, from codes [S]."""
        layout = self.layout
        ids = [layout.code_to_id(int(code)) for code in codes]
        return [layout.begin_of_audio_id, *ids, layout.end_of_audio_id]

    def conversation(self, task: Task) -> list[int]:
        """Return the ids of a new conversation: the system turn."""
        return self._turn("system", self.encode(self.prompts.system_text(task)))

    @property
    def user_header(self) -> list[int]:
        """Return the ids that begin a user's turn."""
        return list(self._headers["user"])

    def user_turn(self, content: Sequence[int]) -> list[int]:
        """Return the ids of a user's turn and the head of the answer that follows it."""
        return self._turn("user", content) + self._headers["assistant"]

    def end_of_answer(self, answer: Sequence[int]) -> list[int]:
        """Return what must follow an answer's ids before the next turn."""
        closed = bool(answer) and answer[-1] == self.layout.im_end_id
        return ([] if closed else [self.layout.im_end_id]) + self._newline

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of the text ids among `ids`, control tokens and speech left out."""
        kept = [i for i in ids if i < self.layout.audio_start and i not in self._control_ids]
        text: str = self._tokenizer.decode(kept, skip_special_tokens=True)
        return text

    def _turn(self, role: str, content: Sequence[int]) -> list[int]:
        return [*self._headers[role], *content, self.layout.im_end_id, *self._newline]

    def _header(self, role: str) -> list[int]:
        return [self.layout.im_start_id, *self.encode(role), *self._newline]
