"""When an answer's text has run away, and what is reported of an answer that did not end by itself.

Two rules, on text ids alone, so that the same answer always stops at the same place:

    repetition  the text ends in one cycle of ids, repeated 8 times or more over 32 ids or more
                (a text to speak may repeat itself as it is asked to)
    length      a text that is spoken is longer than twice the text asked for and 32 ids;
                a transcript has more ids than its speech, and 32

Exactness `reference` stops by neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from ttt_ref.config import GenerationConfig, TokenLayout
from ttt_runtime.decode.events import AnyEvent, DoneEvent, DoneReason, TextEvent
from ttt_runtime.dialogue.prompt import Task

LONGEST_CYCLE: Final = 24
LEAST_REPEATS: Final = 8
LEAST_REPEATED_IDS: Final = 32
SPARE_IDS: Final = 32


class RunawayGuard:
    """Watches one answer's text.

    Args:
        task: decides the length rule.
        content: ids of the user's turn.
        layout: which ids are text.
    """

    def __init__(self, task: Task, content: Sequence[int], layout: TokenLayout) -> None:
        self._content = [i for i in content if not layout.is_audio(i)]
        spoken = len(content) - len(self._content)
        limits = {"speak": 2 * len(self._content) + SPARE_IDS, "transcribe": spoken + SPARE_IDS}
        self._longest = limits.get(task)
        self._may_repeat = task == "speak"
        self._ids: list[int] = []
        # By length of the cycle: how many ids at the end equal the id so many places before.
        self._runs = [0] * (LONGEST_CYCLE + 1)

    def push(self, token_id: int) -> bool:
        """Take the next text id; return True if the text has run away."""
        ids = self._ids
        ids.append(token_id)
        ran_away = self._longest is not None and len(ids) > self._longest
        for cycle in range(1, min(LONGEST_CYCLE, len(ids) - 1) + 1):
            same = ids[-1] == ids[-1 - cycle]
            self._runs[cycle] = self._runs[cycle] + 1 if same else 0
            repeated = self._runs[cycle] + cycle
            if repeated >= max(LEAST_REPEATS * cycle, LEAST_REPEATED_IDS):
                ran_away = ran_away or not self._is_asked_for(ids[-cycle:], repeated)
        return ran_away

    def _is_asked_for(self, cycle: list[int], repeated: int) -> bool:
        if not self._may_repeat or repeated > len(self._content):
            return False
        twice = [*cycle, *cycle]
        places = range(len(self._content) - len(twice) + 1)
        return any(self._content[i : i + len(twice)] == twice for i in places)


def watched(
    events: Iterator[AnyEvent], guard: RunawayGuard, stop: Callable[[], None]
) -> Iterator[AnyEvent]:
    """Pass events on; a text that runs away is stopped, and its DoneEvent says `runaway`.

    Args:
        events: a generation that ends before its next forward once `stop` was called.
        guard: of this generation.
        stop: cancels it.
    """
    ran_away = False
    try:
        for event in events:
            if isinstance(event, DoneEvent) and ran_away and event.reason == "cancelled":
                event = replace(event, reason="runaway")
            yield event
            if isinstance(event, TextEvent) and not ran_away and guard.push(event.ids[0]):
                ran_away = True
                stop()
    finally:
        events.close()  # type: ignore[attr-defined]  # in the thread that ran it


def end_note(reason: DoneReason | str, config: GenerationConfig, capacity: int) -> str | None:
    """Return what to tell of an answer that did not end by itself; None if it did."""
    return {
        "length": f"the answer was cut at {config.max_gen_len} tokens (max_gen_len of the preset)",
        "full": f"the answer was cut: the cache of {capacity} tokens is full",
        "cancelled": "the answer was cancelled",
        "runaway": "the answer was stopped: its text repeated itself or had no end",
    }.get(reason)


def words_not_spoken(asked: str, spoken: str) -> list[str]:
    """Return the words of a text that are missing in what the model wrote to be spoken."""
    said = {_plain(word) for word in spoken.split()}
    missing = [word for word in asked.split() if _plain(word) and _plain(word) not in said]
    return list(dict.fromkeys(missing))


def _plain(word: str) -> str:
    return "".join(c for c in word.casefold() if c.isalnum())
