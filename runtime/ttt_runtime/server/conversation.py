"""A session's conversation: items as the API knows them, and the prompt that they make.

The ids of a prompt are put together from the items each time, so deleting, inserting and cutting an
item needs nothing else: the engine computes a prompt from where it differs from its cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ttt_ref.config import GenerationConfig
from ttt_runtime.dialogue.barge_in import cut_answer, tokens_heard
from ttt_runtime.dialogue.prompt import PromptBuilder, Task
from ttt_runtime.server.errors import ApiError

MOST_ITEMS: Final = 512


@dataclass(slots=True)
class Item:
    """A message of a conversation, or something that the model does not read (a tool's call).

    Attributes:
        ids: what the model reads of it: a user's content, or an assistant's answer.
        typed: a user's text, without any sound.
        sent_seconds: sound of an answer that was sent to the client.
        finished: an answer that came to its own end.
    """

    id: str
    role: str
    content: list[dict[str, Any]]
    type: str = "message"
    status: str = "completed"
    ids: list[int] = field(default_factory=list)
    typed: bool = False
    sent_seconds: float = 0.0
    finished: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the API's form."""
        item: dict[str, Any] = {
            "id": self.id,
            "object": "realtime.item",
            "type": self.type,
            "status": self.status,
        }
        if self.type == "message":
            item |= {"role": self.role, "content": self.content}
        return item | self.extra

    @property
    def is_answer(self) -> bool:
        """True for what the assistant said."""
        return self.type == "message" and self.role == "assistant"


class Conversation:
    """The items of one session, in order."""

    def __init__(self) -> None:
        self.items: list[Item] = []

    @property
    def last_id(self) -> str | None:
        """The newest item's name."""
        return self.items[-1].id if self.items else None

    def find(self, item_id: Any) -> Item:
        """Return an item by name; ApiError if there is none."""
        for item in self.items:
            if item.id == item_id:
                return item
        raise ApiError(
            f"this conversation has no item {item_id!r:.80}",
            code="item_not_found",
            param="item_id",
        )

    def add(self, item: Item, after: str | None = None) -> str | None:
        """Insert an item; return the name of the one before it.

        Args:
            item: the new item.
            after: name of the item before it, `root` for the beginning; None appends.
        """
        if len(self.items) >= MOST_ITEMS:
            raise ApiError(f"the conversation has {MOST_ITEMS} items; delete some of them")
        if any(known.id == item.id for known in self.items):
            raise ApiError(f"there is an item {item.id!r:.80} already", param="item.id")
        if after is None:
            place = len(self.items)
        elif after == "root":
            place = 0
        else:
            place = self.items.index(self.find(after)) + 1
        self.items.insert(place, item)
        return self.items[place - 1].id if place else None

    def make_room(self, count: int) -> list[str]:
        """Forget the oldest items so that `count` more can be added; return their names."""
        surplus = max(len(self.items) + count - MOST_ITEMS, 0)
        gone, self.items = self.items[:surplus], self.items[surplus:]
        return [item.id for item in gone]

    def delete(self, item_id: Any) -> None:
        """Remove an item."""
        self.items.remove(self.find(item_id))


@dataclass(frozen=True, slots=True)
class TurnIds:
    """What the model reads of a turn to answer.

    Attributes:
        history: ids before it.
        content: ids of the turn; none is silence.
        transcript: what was typed, for a model that writes down what it hears: it is given that.
    """

    history: list[int] = field(default_factory=list)
    content: list[int] = field(default_factory=list)
    transcript: list[int] = field(default_factory=list)


def is_silence(items: Sequence[Item]) -> bool:
    """Tell whether the newest message is a user's that says nothing."""
    newest = next((item for item in reversed(items) if item.type == "message"), None)
    return newest is not None and newest.role == "user" and not newest.ids


def turn_ids(
    items: Sequence[Item],
    prompts: PromptBuilder,
    task: Task,
    config: GenerationConfig,
    capacity: int,
) -> TurnIds:
    """Return what the model reads of a conversation whose last turn is to be answered.

    Messages of the user that follow each other are one turn. The oldest turns are left out where
    the cache would have no room for the answer, and all of them for a model that knows no history.

    Raises:
        ApiError: there is nothing to answer.
    """
    turns: list[list[int]] = []  # ids of whole turns
    open_content: list[int] = []
    typed = True
    if is_silence(items):
        return TurnIds()
    for item in items:
        if item.type != "message" or not item.ids:
            continue
        if item.role == "user":
            open_content += item.ids
            typed = typed and item.typed
        elif item.role == "assistant" and open_content:
            answer = prompts.user_turn(open_content) + item.ids + prompts.end_of_answer(item.ids)
            turns.append(answer)
            open_content, typed = [], True
    if not open_content:
        raise ApiError(
            "there is nothing to answer: commit audio or add a message of the user first",
            code="nothing_to_answer",
        )
    begin = prompts.conversation(task)
    room = capacity - len(begin) - len(prompts.user_turn(open_content))
    room -= min(config.max_gen_len, capacity // 2)
    kept: list[list[int]] = []
    if not prompts.prompts.single_turn:
        for turn in reversed(turns):
            room -= len(turn)
            if room < 0:
                break
            kept.insert(0, turn)
    history = [*begin, *(token for turn in kept for token in turn)]
    if typed and prompts.prompts.transcript_first:
        return TurnIds(history, prompts.speech(()), open_content)
    return TurnIds(history, open_content)


def cut_item(item: Item, prompts: PromptBuilder, heard_seconds: float, frame_rate_hz: float) -> str:
    """Cut an answer to what was heard of it; return the text that is left.

    Args:
        item: an answer; its ids, sent seconds and transcript are cut.
        prompts: the template of the model that answered.
        heard_seconds: sound of it that left the loudspeaker.
        frame_rate_hz: speech tokens a second.
    """
    layout = prompts.layout
    codes = sum(layout.is_code(token) for token in item.ids)
    heard = min(tokens_heard(heard_seconds, frame_rate_hz), codes)
    kept, own = cut_answer(item.ids, layout, heard, finished=item.finished)
    whole = own == len(item.ids) and len(kept) == own
    item.finished = item.finished and whole
    item.ids = kept
    item.sent_seconds = min(item.sent_seconds, heard_seconds)
    _, text = prompts.prompts.split_answer(prompts.decode(kept))
    for part in item.content:
        if "transcript" in part:
            part["transcript"] = text
    return text
