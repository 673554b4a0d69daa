"""Where in a recording somebody speaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ttt_runtime.audio.voice_activity import (
    FRAME_SAMPLES,
    RATE_HZ,
    Audio,
    SileroDetector,
)
from ttt_runtime.server.service import EngineService

_ON: Final = 0.5
_OFF: Final = 0.35
# Silence between two utterances, and what is added to each on both sides.
_GAP_FRAMES: Final = int(0.7 * RATE_HZ / FRAME_SAMPLES)
_PAD_FRAMES: Final = int(0.3 * RATE_HZ / FRAME_SAMPLES)
# An utterance is cut where it grows longer than the model has learnt to hear.
_LONGEST_FRAMES: Final = int(15.0 * RATE_HZ / FRAME_SAMPLES)
_PIECE_FRAMES: Final = 32


@dataclass(frozen=True, slots=True)
class Span:
    """Samples start .. stop - 1 of a recording."""

    start: int
    stop: int


async def speech_spans(service: EngineService, audio: Audio) -> list[Span]:
    """Return the utterances of a recording, float32 [T] at 16 kHz; none where nobody speaks."""
    detector = await service.hear(SileroDetector)
    probabilities: list[float] = []
    frames = len(audio) // FRAME_SAMPLES

    def judge(first: int) -> None:
        for frame in range(first, min(first + _PIECE_FRAMES, frames)):
            piece = audio[frame * FRAME_SAMPLES : (frame + 1) * FRAME_SAMPLES]
            probabilities.append(detector.probability(piece))

    for first in range(0, frames, _PIECE_FRAMES):
        await service.hear(lambda first=first: judge(first))  # type: ignore[misc]
    spans = find_spans(probabilities)
    return [Span(a * FRAME_SAMPLES, min(b * FRAME_SAMPLES, len(audio))) for a, b in spans]


def find_spans(probabilities: list[float]) -> list[tuple[int, int]]:
    """Return the utterances as frames (first, behind the last), in order and apart."""
    spans: list[tuple[int, int]] = []
    begin, last = -1, -1
    for frame, probability in enumerate(probabilities):
        if probability >= (_OFF if begin >= 0 else _ON):
            begin = frame if begin < 0 else begin
            last = frame
        if begin >= 0 and (frame - last > _GAP_FRAMES or frame - begin >= _LONGEST_FRAMES):
            spans.append((begin, last + 1))
            begin = -1
    if begin >= 0:
        spans.append((begin, last + 1))
    padded: list[tuple[int, int]] = []
    for number, (first, stop) in enumerate(spans):
        before = padded[-1][1] if padded else 0
        after = spans[number + 1][0] if number + 1 < len(spans) else len(probabilities) + 1
        padded.append((max(first - _PAD_FRAMES, before), min(stop + _PAD_FRAMES, after)))
    return padded
