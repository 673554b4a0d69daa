"""A text spoken: sentence by sentence, each a turn of its own, sound as it comes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

from ttt_runtime.dialogue.assistant import AudioPart
from ttt_runtime.server.audio_formats import Audio
from ttt_runtime.server.errors import ApiError
from ttt_runtime.server.service import EngineService


def check_text(text: object, most_characters: int, param: str = "input") -> str:
    """Return a text that can be spoken; ApiError if it is none, or too long."""
    if not isinstance(text, str) or not text.strip():
        raise ApiError(f"{param} must be a text of at least one word", param=param)
    if len(text) > most_characters:
        raise ApiError(
            f"{param} has {len(text)} characters; at most {most_characters} are spoken at once",
            param=param,
        )
    return text


async def spoken(service: EngineService, sentences: Iterable[str]) -> AsyncGenerator[Audio, None]:
    """Yield the sound of sentences, float32 [t] at the decoder's rate.

    Closing it ends the turn that runs.
    """
    for sentence in sentences:
        async with aclosing(_sentence(service, sentence)) as pieces:
            async for audio in pieces:
                yield audio


async def _sentence(service: EngineService, text: str) -> AsyncGenerator[Audio, None]:
    turn = service.turn(lambda cancel: service.assistant.speak(text, cancel=cancel))
    status = "cancelled"
    try:
        async for part in turn:
            if isinstance(part, AudioPart):
                yield part.audio
        status = "completed"
    finally:
        turn.cancel()
        service.metrics.turn_ended("speak", status, turn.reply)
