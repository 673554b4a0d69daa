"""A speech corpus on disk: one raw int16 file and one manifest line per utterance."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ttt_ref.errors import CheckpointError, DataError

Audio = npt.NDArray[np.float32]
SAMPLE_RATE_HZ = 16_000


@dataclass(frozen=True)
class Utterance:
    """One manifest line. ``phones`` are espeak IPA symbols, words divided by "|"."""

    id: str
    text: str
    phones: str
    engine: str
    voice: str
    split: str
    kind: str
    offset: int
    samples: int


def _utterance(line: str) -> Utterance:
    """Read a manifest line; ValueError tells what is wrong with it."""
    values = json.loads(line)
    if not isinstance(values, dict):
        raise ValueError("not a table")
    found: dict[str, Any] = {}
    for field in fields(Utterance):
        value = values.get(field.name)
        if type(value).__name__ != field.type:
            raise ValueError(f"`{field.name}` is {value!r}, expected {field.type}")
        found[field.name] = value
    utterance = Utterance(**found)
    if utterance.offset < 0 or utterance.samples < 1:
        raise ValueError(f"{utterance.samples} samples from {utterance.offset} on")
    return utterance


def _read_manifest(folder: Path) -> list[Utterance]:
    manifest = folder / "manifest.jsonl"
    if not manifest.is_file() or not (folder / "audio.i16").is_file():
        raise DataError(
            f"{folder} is no speech corpus; expected a folder with manifest.jsonl and audio.i16, "
            "as recipes.tiny.synthesize writes it"
        )
    found = []
    # Lines end in line feeds alone: other separators may stand inside a text.
    for number, line in enumerate(manifest.read_bytes().split(b"\n"), 1):
        if line.strip():
            try:
                found.append(_utterance(line.decode("utf-8")))
            except ValueError as error:
                raise DataError(
                    f"{manifest} line {number} is no utterance ({error}); remove the line or "
                    "synthesise the corpus again"
                ) from None
    return found


class Corpus:
    """Random access to the utterances of a folder with ``audio.i16`` and ``manifest.jsonl``.

    Raises:
        DataError: the folder is no corpus, or one of its files is broken.
        CheckpointError: there is less audio than the manifest says.
    """

    def __init__(self, folder: Path, keep: Callable[[Utterance], bool] | None = None):
        self._opened_with = folder, keep
        raw = folder / "audio.i16"
        every = _read_manifest(folder)
        self.utterances = [u for u in every if keep is None or keep(u)]
        try:
            self._audio = np.memmap(raw, dtype=np.int16, mode="r")
        except ValueError:  # nothing to map, or half a sample
            raise DataError(
                f"{raw} has {raw.stat().st_size} bytes, which is no 16-bit audio; "
                "synthesise the corpus again"
            ) from None
        end = max((u.offset + u.samples for u in every), default=0)
        if end > len(self._audio):
            raise CheckpointError(
                f"{raw} holds {len(self._audio)} samples, the manifest needs {end}; "
                "synthesise the corpus again"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the folder again, instead of being sent all of its sound."""
        return Corpus, self._opened_with

    def __len__(self) -> int:
        return len(self.utterances)

    def audio(self, index: int) -> Audio:
        """Utterance ``index`` as float32 [T] in -1..1."""
        u = self.utterances[index]
        return self._audio[u.offset : u.offset + u.samples].astype(np.float32) / 32768.0


class LengthBuckets:
    """Batches of similar length, a pure function of (seed, step): resuming needs no state.

    An anchor is drawn by weight, its companions from the neighbours in order of length; the batch
    size follows from a budget of seconds.
    """

    def __init__(
        self,
        samples: list[int],
        weights: list[float],
        budget_s: float,
        max_rows: int,
        seed: int,
        sample_rate_hz: int = SAMPLE_RATE_HZ,
    ):
        self.order = np.argsort(np.asarray(samples), kind="stable")
        self.samples = np.asarray(samples)[self.order]
        w = np.asarray(weights, dtype=np.float64)[self.order]
        self.weights = w
        self.cumulative = np.cumsum(w) / w.sum()
        self.budget = budget_s * sample_rate_hz
        self.max_rows, self.seed = max_rows, seed

    def batch(self, step: int, shortest_share: float = 1.0) -> list[int]:
        """Indices of the batch of ``step``; ``shortest_share`` < 1 keeps to short utterances."""
        rng = np.random.default_rng((self.seed, 1, step))
        count = max(1, int(len(self.order) * shortest_share))
        anchor = int(np.searchsorted(self.cumulative, rng.random() * self.cumulative[count - 1]))
        rows = int(min(self.max_rows, max(2, self.budget // max(1, self.samples[anchor]))))
        low = max(0, min(anchor - 4 * rows, count - 8 * rows))
        pool = np.arange(low, min(count, low + 8 * rows))
        share = self.weights[pool] / self.weights[pool].sum()
        rows = min(rows, int((share > 0).sum()))
        chosen = rng.choice(pool, size=rows, replace=False, p=share)
        return [int(i) for i in self.order[chosen]]
