"""What turn-taking knows of a piece of the microphone's sound."""

from __future__ import annotations

from dataclasses import dataclass

SILENT_DB = -120.0


@dataclass(frozen=True, slots=True)
class VoiceFrame:
    """One frame of the microphone, as the front end judges it.

    Attributes:
        end_s: the microphone's time at its end, in seconds since the stream began.
        seconds: its length.
        probability: of speech in it, 0..1.
        level_db: its level behind echo cancellation, dB of full scale (0: not known).
        echo_db: level of our own echo that may be left in it; SILENT_DB where nothing plays.
    """

    end_s: float
    seconds: float
    probability: float
    level_db: float = 0.0
    echo_db: float = SILENT_DB
