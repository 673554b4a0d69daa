"""Sound files that clients send: decoded off the event loop, encoded between other turns."""

from __future__ import annotations

import asyncio
from typing import Any, BinaryIO

from ttt_runtime.audio.reader import Audio, read_sound
from ttt_runtime.server.listening import Utterance, Utterances
from ttt_runtime.server.service import EngineService


async def read_recording(
    service: EngineService, file: BinaryIO | Any, name: str, max_seconds: float
) -> Audio:
    """Return audio float32 [T] of an opened sound file; `heard` parts it into utterances.

    Raises:
        AudioError: it cannot be read, or is longer than allowed.
    """
    assistant = service.assistant
    assert assistant.tokenizer is not None
    recording = await asyncio.to_thread(
        read_sound, file, name, assistant.tokenizer, max_seconds=max_seconds
    )
    return recording.audio


async def heard(service: EngineService, audio: Audio, max_seconds: float) -> Utterance:
    """Encode a recording a second at a time."""
    tokenizer = service.assistant.tokenizer
    assert tokenizer is not None
    utterances = Utterances(tokenizer, max_seconds + 1.0)
    step = tokenizer.sample_rate_hz
    for start in range(0, len(audio), step):
        piece = audio[start : start + step]
        await service.hear(lambda piece=piece: utterances.push(piece))  # type: ignore[misc]
    return await service.hear(utterances.take)
