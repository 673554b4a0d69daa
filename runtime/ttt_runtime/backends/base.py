"""What every backend offers: runners of the decoder and heads that tell the best ids.

Axes: Q rows of one forward, N rows given to a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


class HeadBest:
    """What a head says of each row: best id [N], its logit [N], sum of exp(logit - best) [N].

    The sum may be given as a function, which is called when it is first asked for; that must
    happen before the head is used again.
    """

    __slots__ = ("_sum_exp", "ids", "logits")

    def __init__(self, ids: Ids, logits: Floats, sum_exp: Floats | Callable[[], Floats]) -> None:
        self.ids = ids
        self.logits = logits
        self._sum_exp = sum_exp

    @property
    def sum_exp(self) -> Floats:
        """Sum over the head's rows of exp(logit - best logit), [N], at least 1."""
        if callable(self._sum_exp):
            self._sum_exp = self._sum_exp()
        return self._sum_exp


class TopKFinder(Protocol):
    """Goes over long logits faster than numpy does, see `backends.native.top_k`."""

    def is_worthwhile(self, parts: Sequence[Floats], count: int) -> bool:
        """Tell whether it is worth its while."""
        ...

    def find(
        self, parts: Sequence[Floats], count: int, per_unit: np.float32
    ) -> tuple[Ids, Floats, float]:
        """Return `largest`, and `sum_of_exp` relative to the largest."""
        ...


class Runner(Protocol):
    """Runs the model. Knows tensors, knows nothing of spans, steps or options."""

    @property
    def capacity(self) -> int:
        """Rows that the cache can hold."""

    @property
    def top_k_finder(self) -> TopKFinder | None:
        """Goes over logits faster than numpy does; None where nothing does."""

    @property
    def runs_in(self) -> str:
        """What runs the decoder, in words; where it is not the fastest there is, and why."""

    @property
    def note(self) -> str | None:
        """A note for the user: this machine has a faster way that this bundle cannot go."""

    def forward(
        self,
        ids: Sequence[int],
        start: int,
        *,
        positions: Sequence[int] | None = None,
        scratch: bool = False,
    ) -> Floats:
        """Run rows `ids` [Q] and write their K/V to the cache rows start .. start+Q-1.

        They stand at `positions` (default: those of the same numbers). The rows see the cache below
        `start`, and each other by the segment rule. `scratch` uses a second cache, for rows that
        are not part of the sequence.

        Returns:
            hidden rows [Q, hidden]; valid until the next call.
        """

    def text_best(self, hidden: Floats, *, forbid_end: bool) -> HeadBest:
        """Return the best text ids of hidden rows [N, hidden]."""

    def speech_best(self, hidden: Floats) -> HeadBest:
        """Return the best audio-side ids of hidden rows [N, hidden]."""

    def text_logits(self, hidden: Floats, *, forbid_end: bool) -> Floats:
        """Return the logits [N, audio_start] of the text rows; valid until the next call."""

    def speech_logits(self, hidden: Floats) -> Floats:
        """Return the logits [N, V - audio_start] of the audio side; valid until the next call."""


class Head(Protocol):
    """One head. `forbid_end` forbids `<|im_end|>`; only the text head knows it."""

    def best(self, hidden: Floats, *, forbid_end: bool = False) -> HeadBest:
        """Return the best ids of hidden rows [N, hidden]."""
        ...

    def logits(self, hidden: Floats, *, forbid_end: bool = False) -> Floats:
        """Return the logits [N, rows of the head]; valid until the next call."""
        ...


class Heads:
    """The part of `base.Runner` that asks the heads.

    Args:
        text: head of the text rows.
        speech: head of the audio-side rows.
        top_k_finder: goes over their logits, where something better than numpy is at hand.
    """

    note: str | None = None

    def __init__(self, text: Head, speech: Head, top_k_finder: TopKFinder | None = None) -> None:
        self._text_head = text
        self._speech_head = speech
        self.top_k_finder = top_k_finder

    def text_best(self, hidden: Floats, *, forbid_end: bool) -> HeadBest:
        """See `base.Runner.text_best`."""
        return self._text_head.best(hidden, forbid_end=forbid_end)

    def speech_best(self, hidden: Floats) -> HeadBest:
        """See `base.Runner.speech_best`."""
        return self._speech_head.best(hidden)

    def text_logits(self, hidden: Floats, *, forbid_end: bool) -> Floats:
        """See `base.Runner.text_logits`."""
        return self._text_head.logits(hidden, forbid_end=forbid_end)

    def speech_logits(self, hidden: Floats) -> Floats:
        """See `base.Runner.speech_logits`."""
        return self._speech_head.logits(hidden)
