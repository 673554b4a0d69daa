"""A runner's two heads: what every runner passes on to them in the same way."""

from __future__ import annotations

from typing import Protocol

from ttt_runtime.sampler import Floats, HeadBest, Survey


class Head(Protocol):
    """One head. `forbid_end` forbids `<|im_end|>`; only the text head knows it."""

    def best(self, hidden: Floats, *, forbid_end: bool = False) -> HeadBest:
        """Return the best ids of hidden rows [N, hidden]."""
        ...

    def logits(self, hidden: Floats, *, forbid_end: bool = False) -> Floats:
        """Return the logits [N, rows of the head]; valid until the next call."""
        ...


class TwoHeads:
    """The part of `chooser.Runner` that asks the heads.

    Args:
        text: head of the text rows.
        speech: head of the audio-side rows.
        survey: goes over their logits, where something better than numpy is at hand.
    """

    def __init__(self, text: Head, speech: Head, survey: Survey | None = None) -> None:
        self._text_head = text
        self._speech_head = speech
        self.survey = survey

    def text_best(self, hidden: Floats, *, forbid_end: bool) -> HeadBest:
        """See `chooser.Runner.text_best`."""
        return self._text_head.best(hidden, forbid_end=forbid_end)

    def speech_best(self, hidden: Floats) -> HeadBest:
        """See `chooser.Runner.speech_best`."""
        return self._speech_head.best(hidden)

    def text_logits(self, hidden: Floats, *, forbid_end: bool) -> Floats:
        """See `chooser.Runner.text_logits`."""
        return self._text_head.logits(hidden, forbid_end=forbid_end)

    def speech_logits(self, hidden: Floats) -> Floats:
        """See `chooser.Runner.speech_logits`."""
        return self._speech_head.logits(hidden)
