"""What the user says: Debian's speech synthesizers, and files of one's own."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from ttt_ref.errors import ConfigError

Audio = NDArray[np.float32]
QUESTIONS: Final = (
    "what is the capital of italy",
    "how much is three plus four",
    "what is the opposite of hot",
    "what day comes after monday",
    "turn on the kitchen light",
    "set a timer for five minutes",
    "how many months are in a year",
    "tell me the capital of france",
    "how much is nine minus two",
    "what day comes after sunday",
)
PAUSED: Final = (  # first part, second part
    ("what is the", "capital of italy"),
    ("what is the capital", "of italy"),
    ("how much is three", "plus four"),
    ("how much is", "three plus four"),
    ("what is the opposite", "of hot"),
    ("what is the opposite of", "hot"),
    ("what day comes", "after monday"),
    ("what day comes after", "monday"),
    ("turn on the", "kitchen light"),
    ("turn on", "the kitchen light"),
    ("set a timer", "for five minutes"),
    ("set a timer for", "five minutes"),
    ("how many months", "are in a year"),
    ("tell me the", "capital of france"),
    ("tell me the capital of", "france"),
)
ESPEAK_VOICES: Final = ("en-us", "en-gb+f2", "en-us+m3")
LEVEL_RMS: Final = 0.06  # -24 dB of full scale while speaking


def say(text: str, voice: str, rate_hz: int) -> Audio:
    """Return audio float32 [T] of a text, its silence at both ends cut, at an even level.

    Args:
        text: what is said.
        voice: `espeak:VARIANT`, or `flite:NAME`.
        rate_hz: rate wanted.
    """
    program, _, name = voice.partition(":")
    if program == "espeak":
        program = "espeak-ng"
    if shutil.which(program) is None:
        raise ConfigError(f"{program} is missing; run: sudo apt install espeak-ng flite")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "said.wav"
        options = ["-v", name, "-s", "160", "-w", str(path), text]
        if program == "flite":
            options = ["-voice", name, "-t", text, "-o", str(path)]
        subprocess.run([program, *options], check=True, capture_output=True)
        audio, own_hz = soundfile.read(path, dtype="float32")
    return prepared(audio, own_hz, rate_hz)


def prepared(audio: Audio, own_hz: int, rate_hz: int) -> Audio:
    """Return a recording without silence at its ends, at an even level and another rate."""
    if audio.ndim > 1:
        audio = audio.mean(axis=1)
    begin, end = spoken(audio)
    audio = audio[begin:end]
    loud = audio[np.abs(audio) > 0.02 * np.abs(audio).max()]
    audio = audio * (LEVEL_RMS / float(np.sqrt(np.mean(np.square(loud)))))
    resampled: Audio = soxr.resample(audio, own_hz, rate_hz).astype(np.float32)
    return np.clip(resampled, -0.95, 0.95)


def spoken(audio: Audio, below_peak: float = 0.02) -> tuple[int, int]:
    """Return the first sample of a clip that is audible, and the one behind the last."""
    audible = np.flatnonzero(np.abs(audio) > below_peak * float(np.abs(audio).max()))
    return int(audible[0]), int(audible[-1]) + 1
