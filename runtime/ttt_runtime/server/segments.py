"""Where in a recording somebody speaks."""

from __future__ import annotations

from dataclasses import dataclass

from ttt_runtime.audio.reader import Audio
from ttt_runtime.server.service import EngineService


@dataclass(frozen=True, slots=True)
class Span:
    """Samples start .. stop - 1 of a recording."""

    start: int
    stop: int


async def speech_spans(service: EngineService, audio: Audio) -> list[Span]:
    """Return the utterances of a recording, float32 [T] at the tokenizer's rate."""
    return [Span(0, len(audio))]
