"""How much silence ends a turn."""

from __future__ import annotations

import pytest

from ttt_runtime.dialogue.end_of_turn import EndOfTurn
from ttt_runtime.dialogue.turn_settings import TurnSettings

WHOLE, BROKEN = "what is the capital of italy", "what is the ?"


@pytest.mark.parametrize(
    ("transcript", "probability", "speech_s", "ends_after_s", "verdict"),
    [
        (WHOLE, 0.99, 1.5, 0.2, "complete"),
        (WHOLE, 0.90, 1.5, 0.2, "complete"),
        (WHOLE, None, 1.5, 0.35, "complete"),
        ("what is the opposite of thick", 0.38, 1.2, 0.35, "complete"),
        (BROKEN, 0.99, 1.2, 0.9, "incomplete"),
        ("", 0.99, 1.2, 0.9, "incomplete"),
        (WHOLE, 0.99, 0.1, 0.9, "incomplete"),
        (BROKEN, 0.99, 0.1, 0.9, "nothing"),
        (None, None, 1.2, 0.9, "incomplete"),
    ],
)
def test_a_sure_transcript_ends_a_turn_sooner_than_a_guess(
    transcript: str | None,
    probability: float | None,
    speech_s: float,
    ends_after_s: float,
    verdict: str,
) -> None:
    """A model that completes half a question ended turns in the middle of it."""
    rule, settings = EndOfTurn(), TurnSettings()
    if transcript is not None:
        rule.heard(transcript, probability)
    assert rule.verdict(settings, ends_after_s - 0.01, speech_s) is None
    assert rule.verdict(settings, ends_after_s + 0.001, speech_s) == verdict
    rule.forget()
    assert rule.verdict(settings, 0.8, speech_s) is None


def test_a_fixed_silence_knows_no_transcript() -> None:
    rule, settings = EndOfTurn(), TurnSettings(fixed_s=0.7)
    rule.heard(WHOLE, 1.0)
    assert rule.verdict(settings, 0.69, 1.0) is None
    assert rule.verdict(settings, 0.7, 1.0) == "fixed"


def test_patience_is_learnt_in_every_case_and_bounded() -> None:
    settings = TurnSettings()
    for probability, first_s in ((1.0, 0.2), (None, 0.35), (0.1, 0.35)):
        rule = EndOfTurn()
        rule.heard(WHOLE, probability)
        assert rule.needed_s(settings) == pytest.approx(first_s)
        rule.was_too_early(settings)
        assert rule.needed_s(settings) == pytest.approx(first_s + 0.15)
        for _ in range(20):
            rule.was_too_early(settings)
        assert rule.needed_s(settings) == settings.incomplete_s
        rule.reset()
        assert rule.needed_s(settings) == pytest.approx(first_s)
