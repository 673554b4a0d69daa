"""How much silence ends a turn: what the model wrote of it decides, and what was learnt.

    sure        the transcript reads complete, and the model was sure of every word
    complete    it reads complete, but a word of it may be a guess at how the sentence goes on
    incomplete  it breaks off, is empty, or the utterance was very short

A model that was trained on whole questions completes half of one: of 75 questions that were broken
off 56 ended in its mark for what it cannot make out, 17 in a guess with a probability below 0.72.
Of 125 whole ones 122 were written with 0.95 and more for each word.
"""

from __future__ import annotations

from typing import Literal

from ttt_runtime.dialogue.turn_settings import TurnSettings, reads_complete

# `nothing`: a click or a cough; nobody waits for an answer.
Verdict = Literal["complete", "incomplete", "fixed", "nothing"]


class EndOfTurn:
    """The rule, for the turn whose answer is being computed."""

    def __init__(self) -> None:
        self._transcript: str | None = None
        self._probability: float | None = None
        self._patience_s = 0.0

    def forget(self) -> None:
        """Another computation begins."""
        self._transcript = self._probability = None

    def heard(self, transcript: str, probability: float | None) -> None:
        """Take in the transcript's line, and the least probability of a token in it."""
        self._transcript, self._probability = transcript, probability

    def was_too_early(self, settings: TurnSettings) -> None:
        """The user went on after a release."""
        self._patience_s += settings.patience_step_s

    def was_right(self, settings: TurnSettings) -> None:
        """A turn was not reopened: that makes up for part of what an earlier one taught."""
        self._patience_s = max(self._patience_s - settings.patience_step_s / 3, 0.0)

    def reset(self) -> None:
        """Somebody else speaks."""
        self._patience_s = 0.0

    def needed_s(self, settings: TurnSettings) -> float:
        """Return the silence that ends a turn which reads complete, with what was learnt."""
        needed_s = settings.complete_s
        if self._probability is not None and self._probability >= settings.sure_probability:
            needed_s = min(settings.sure_s, needed_s)
        return min(needed_s + self._patience_s, settings.incomplete_s)

    def verdict(self, settings: TurnSettings, silence_s: float, speech_s: float) -> Verdict | None:
        """Return how the turn is over, or None: it goes on.

        Args:
            settings: thresholds.
            silence_s: silence so far.
            speech_s: speech in the turn.
        """
        if settings.fixed_s is not None:
            return "fixed" if silence_s >= settings.fixed_s else None
        is_short = speech_s < settings.short_s
        is_complete = self._transcript is not None and reads_complete(self._transcript)
        if silence_s >= settings.incomplete_s:
            return "nothing" if is_short and not is_complete else "incomplete"
        if is_complete and not is_short and silence_s >= self.needed_s(settings):
            return "complete"
        return None
