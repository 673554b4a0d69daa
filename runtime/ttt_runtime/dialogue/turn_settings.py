"""How patient and how wary turn-taking is: thresholds and limits, each for a state of its own.

The thresholds while nothing plays and while the answer plays are apart: a short "yes" into silence
must not be lost, and a remainder of our own echo must not interrupt.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from ttt_ref.errors import ConfigError

# hands_free: whoever speaks is heard; push_to_talk: while the key is held; wake_word: after the
# word, and for a while after each answer.
Mode = Literal["hands_free", "push_to_talk", "wake_word"]
MODES: tuple[Mode, ...] = ("hands_free", "push_to_talk", "wake_word")


@dataclass(frozen=True, slots=True)
class Onset:
    """When sound counts as the beginning of speech.

    Attributes:
        probability: of speech in a frame, from which on it counts.
        frames: so many that count, in a row but for one, begin an utterance.
        pre_roll_s: audio before the first of them that belongs to the utterance.
    """

    probability: float
    frames: int
    pre_roll_s: float

    def __post_init__(self) -> None:
        """Refuse what can never begin or always does."""
        if not (0 < self.probability < 1 and self.frames >= 1 and 0 <= self.pre_roll_s <= 2):
            raise ConfigError(
                f"speech beginning at probability {self.probability} over {self.frames} frames "
                f"with {self.pre_roll_s} s of pre-roll; expected 0..1, 1 or more, 0..2"
            )


@dataclass(frozen=True, slots=True)
class TurnSettings:
    """All of turn-taking's numbers; seconds of the microphone's time.

    Attributes:
        mode: who may begin a turn.
        quiet: the beginning of speech while nothing plays.
        playing: the beginning of an interruption while the answer plays.
        over_echo_db: an interruption is at least so much louder than the echo expected.
        off_probability: below it a frame of the user's turn is silence.
        voice_lag_s: how late the detector falls silent; silence is counted from so much earlier.
        speculate_s: silence after which the answer is computed and held.
        sure_s: silence that ends a turn whose transcript reads complete and is sure.
        sure_probability: of each of its tokens, from which on it is (see `end_of_turn`).
        complete_s: the same where a word of it may be a guess.
        incomplete_s: silence that ends it otherwise: broken off, nothing heard, or very short.
        fixed_s: silence that ends a turn whatever its transcript; None decides by the transcript.
        short_s: an utterance with less speech in it is waited for as an incomplete one.
        resume_frames: frames of speech after which the user goes on and the answer is dropped.
        reopen_s: speech that begins so soon after the turn's release continues that turn.
        patience_step_s: added to these when a release was too early, up to `incomplete_s`.
        longest_turn_s: a turn is answered after so long, speech or not.
        longest_held_key_s: the same with the key held.
        no_speech_s: after the wake word, or an answer in its mode: then asleep again.
        longest_thought_s: an answer that has no sound so long after its turn is given up.
        longest_answer_s: playback is stopped after so long.
        shortest_key_s: the key held for less is a slip.
    """

    mode: Mode = "hands_free"
    quiet: Onset = field(default_factory=lambda: Onset(0.5, 3, 0.3))
    playing: Onset = field(default_factory=lambda: Onset(0.6, 4, 0.3))
    over_echo_db: float = 3.0
    off_probability: float = 0.35
    voice_lag_s: float = 0.05
    speculate_s: float = 0.12
    sure_s: float = 0.2
    sure_probability: float = 0.9
    complete_s: float = 0.35
    incomplete_s: float = 0.9
    fixed_s: float | None = None
    short_s: float = 0.25
    resume_frames: int = 2
    reopen_s: float = 0.6
    patience_step_s: float = 0.15
    longest_turn_s: float = 15.0
    longest_held_key_s: float = 60.0
    no_speech_s: float = 5.0
    longest_thought_s: float = 30.0
    longest_answer_s: float = 180.0
    shortest_key_s: float = 0.2

    def __post_init__(self) -> None:
        """Refuse times that contradict each other."""
        if self.mode not in MODES:
            raise ConfigError(f"unknown mode {self.mode!r}; expected one of {', '.join(MODES)}")
        for spec in fields(self):
            value = getattr(self, spec.name)
            if isinstance(value, float) and not (0 <= value < 3600 or spec.name == "over_echo_db"):
                raise ConfigError(f"{spec.name} is {value}; expected seconds, 0 or more")
        if not self.complete_s <= self.incomplete_s:
            raise ConfigError(
                f"a complete turn ends after {self.complete_s} s of silence, an incomplete one "
                f"after {self.incomplete_s} s; the second cannot be shorter"
            )
        if not 0 < self.off_probability <= min(self.quiet.probability, self.playing.probability):
            raise ConfigError(
                f"speech ends below probability {self.off_probability}; expected above 0 and at "
                "most what begins it"
            )
        if self.resume_frames < 1:
            raise ConfigError(f"resume_frames is {self.resume_frames}; expected 1 or more")


def reads_complete(transcript: str, unknown_mark: str = "?") -> bool:
    """Tell whether a transcript, as far as the model wrote it, sounds like a whole question.

    It does not where the model heard nothing, or ends in the mark it writes for what it cannot
    make out, as it does of a word cut in two.
    """
    text = transcript.strip()
    return bool(text) and not text.endswith(unknown_mark)
