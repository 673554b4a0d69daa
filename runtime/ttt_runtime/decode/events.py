"""What a generation yields. Small, frozen, and all token ids of the answer are in them.

The answer's ids are the concatenation of the `ids` of all text and speech events in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# end: `<|im_end|>` came; length: max_gen_len; full: the cache has no room; cancelled: the caller;
# runaway: a caller that watches the text (`dialogue.runaway`).
DoneReason = Literal["end", "length", "full", "cancelled", "runaway"]


@dataclass(frozen=True, slots=True)
class TextEvent:
    """One token chosen by the text loop (usually text; `position` counts from the prompt's 0).

    `probability`: what the model gave it, where the engine `tells_probability`.
    """

    ids: tuple[int, ...]
    position: int
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class SpeechEvent:
    """A finished block of a span. `ends_span`: its last id is an end token."""

    ids: tuple[int, ...]
    position: int
    span: int
    ends_span: bool


@dataclass(frozen=True, slots=True)
class DoneEvent:
    """The last event. `generated_tokens` counts all ids of the answer."""

    reason: DoneReason
    generated_tokens: int
    prompt_tokens: int
    cached_tokens: int
    forwards: int
    ids: tuple[int, ...] = ()


Event = TextEvent | SpeechEvent
AnyEvent = TextEvent | SpeechEvent | DoneEvent
