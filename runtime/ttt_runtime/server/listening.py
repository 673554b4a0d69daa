"""The user's speech on its way in: encoded while it is spoken. For the ears' thread only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ttt_runtime.audio.reader import SILENCE_PEAK, Audio
from ttt_runtime.codec.base import SpeechTokenizer, TokenizerStream


@dataclass(frozen=True, slots=True)
class Utterance:
    """What was said: codes (none for silence) and its length."""

    codes: tuple[int, ...]
    seconds: float


class Utterances:
    """Collects one utterance after another, each begun with its first audio.

    Args:
        tokenizer: the model's ears.
        max_seconds: longest utterance; what comes after it is dropped.
    """

    def __init__(self, tokenizer: SpeechTokenizer, max_seconds: float) -> None:
        self._tokenizer = tokenizer
        self._most = int(max_seconds * tokenizer.sample_rate_hz)
        self.clear()

    @property
    def is_full(self) -> bool:
        """True once audio was dropped."""
        return self._samples > self._most

    @property
    def seconds(self) -> float:
        """Length so far."""
        return min(self._samples, self._most) / self._tokenizer.sample_rate_hz

    def clear(self) -> None:
        """Forget the utterance."""
        self._stream: TokenizerStream = self._tokenizer.stream()
        self._codes: list[int] = []
        self._samples = 0
        self._low, self._high = np.inf, -np.inf

    def push(self, audio: Audio) -> None:
        """Take in audio float32 [t] at the tokenizer's rate."""
        audio = audio[: max(self._most - self._samples, 0)] if len(audio) else audio
        self._samples += len(audio)
        if len(audio) == 0:
            return
        self._low = min(self._low, float(audio.min()))
        self._high = max(self._high, float(audio.max()))
        self._codes += self._stream.push(audio).tolist()

    def take(self) -> Utterance:
        """End the utterance."""
        utterance = self._ended(self._stream)
        self.clear()
        return utterance

    def so_far(self) -> Utterance:
        """Return the utterance as if it ended here; it may go on."""
        return self._ended(self._stream.fork())

    def _ended(self, stream: TokenizerStream) -> Utterance:
        codes = [*self._codes, *stream.finish().tolist()]
        is_silent = not self._high - self._low >= 2 * SILENCE_PEAK
        return Utterance(() if is_silent else tuple(codes), self.seconds)
