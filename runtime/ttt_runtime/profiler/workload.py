"""A turn of fixed shape: the model does all its work, a script decides what it says.

What a model says decides how long a turn takes, and random weights say anything. So every forward
and every choice is computed as ever, and then replaced: a number of text tokens, a span, text, ...
A bundle of random weights thus measures like a trained one of its shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ttt_ref.config import GenerationConfig, TokenLayout
from ttt_ref.errors import ConfigError
from ttt_runtime.backends.base import Floats
from ttt_runtime.decode.engine import SpeechEngine
from ttt_runtime.decode.sampler import Sampler
from ttt_runtime.decode.scheduler import Step

# Codes a second for a bundle without a codec: as in the published models.
DEFAULT_FRAME_RATE_HZ = 12.5


@dataclass(frozen=True)
class TurnShape:
    """A question of some seconds, then `spans` times text and a span of speech.

    Attributes:
        question_seconds: length of the question.
        spans: spans of speech in the answer.
        text_tokens: text tokens before each span.
        blocks: blocks in each span; the end token is the last position of the last one.
    """

    question_seconds: float = 3.0
    spans: int = 3
    text_tokens: int = 13
    blocks: int = 1

    def __post_init__(self) -> None:
        """Refuse turns that are none."""
        if not 0 < self.question_seconds <= 600:
            raise ConfigError(f"a question of {self.question_seconds} s; expected 0 .. 600 s")
        for name in ("spans", "text_tokens", "blocks"):
            if not 1 <= getattr(self, name) <= 10_000:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 1 .. 10000")


class ScriptedEngine(SpeechEngine):
    """An engine that works as ever and says what the shape says."""

    shape = TurnShape()

    def sampler(self, config: GenerationConfig, seed: int) -> Sampler:
        """Return the usual strategies with the script on top."""
        sampler = super().sampler(config, seed)
        return _Script(sampler, self.layout, config, self.shape)


class _Script(Sampler):
    def __init__(
        self, inner: Sampler, layout: TokenLayout, config: GenerationConfig, shape: TurnShape
    ) -> None:
        self._inner = inner
        self._codes = layout.code_offset, layout.num_codes
        self._end = layout.end_of_audio_new_id
        self._span_tokens = shape.blocks * config.block_length
        texts: list[int] = []
        for span in range(shape.spans):
            last = span == shape.spans - 1
            begin = layout.begin_of_quad_id if last else layout.begin_of_audio_id
            texts += [0] * shape.text_tokens + [begin]
        self._texts = iter([*texts, layout.im_end_id])
        self._span_start = -1

    def text(self, step: Step, hidden: Floats) -> list[tuple[int, int]]:
        """Choose as ever, then say the next text token of the script."""
        ((position, _),) = self._inner.text(step, hidden)
        self._span_start = position + 1
        return [(position, next(self._texts))]

    def block(self, step: Step, ids: Sequence[int], hidden: Floats) -> list[tuple[int, int]]:
        """Choose as ever which positions to reveal; fill them with some code, or the end."""
        chosen = self._inner.block(step, ids, hidden)
        first, count = self._codes
        end = self._span_start + self._span_tokens - 1
        return [(p, self._end if p == end else first + p * 7919 % count) for p, _ in chosen]


def question_audio(
    seconds: float, sample_rate_hz: int
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Return noise that swells and fades about three times a second: float32 [T], no speech."""
    time = np.arange(round(seconds * sample_rate_hz)) / sample_rate_hz
    noise = np.random.default_rng(0).standard_normal(len(time))
    swell = 0.1 * (1.2 + np.sin(2 * np.pi * 3 * time))
    audio: np.ndarray[tuple[int], np.dtype[np.float32]] = (noise * swell * 0.3).astype(np.float32)
    return audio


def scripted_config(config: GenerationConfig, shape: TurnShape) -> GenerationConfig:
    """Return the preset with room for the whole turn."""
    tokens = shape.spans * (shape.text_tokens + 1 + shape.blocks * config.block_length) + 1
    return GenerationConfig.from_dict({**config.to_dict(), "max_gen_len": tokens + 1})
