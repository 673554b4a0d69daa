"""`POST /v1/audio/speech`: text to sound, sent as it comes."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ttt_runtime.server.audio_formats import FILE_FORMATS, FileEncoder, parse_file_format
from ttt_runtime.server.errors import ApiError
from ttt_runtime.server.json_limits import parse_object
from ttt_runtime.server.speaking import check_text, spoken
from ttt_runtime.server.state import ServerState
from ttt_runtime.server.texts import sentences


async def speech(request: Request) -> Response:
    """Speak a text in the format asked for, chunked or as server-sent events."""
    state: ServerState = request.app.state.server
    asked = parse_object(await request.body())
    text = check_text(asked.get("input"), state.options.limits.text_characters)
    kind = parse_file_format(asked.get("response_format", "mp3"))
    if asked.get("speed", 1.0) != 1.0:
        raise ApiError("this model speaks at speed 1 only; leave speed out", param="speed")
    form = asked.get("stream_format", "audio")
    if form not in ("audio", "sse"):
        raise ApiError(
            f"stream_format is {form!r:.60}; expected audio or sse", param="stream_format"
        )
    for sentence in sentences(text):
        state.service.assistant.prompts.encode_plain(sentence)  # refused now, not on the way
    decoder = state.service.assistant.decoder
    if decoder is None or "speak" not in state.service.assistant.prompts.prompts.system:
        raise ApiError("this bundle does not speak texts; use one with the task speak")
    pieces = _encoded(state, text, FileEncoder(kind, decoder.sample_rate_hz))
    first = await anext(pieces)  # what fails before the first sound fails with a status
    if form == "sse":
        return StreamingResponse(_events(first, pieces, text), media_type="text/event-stream")
    return StreamingResponse(_chunks(first, pieces), media_type=FILE_FORMATS[kind])


async def _encoded(
    state: ServerState, text: str, encoder: FileEncoder
) -> AsyncGenerator[bytes, None]:
    async with aclosing(spoken(state.service, sentences(text))) as sound:
        async for audio in sound:
            if data := encoder.push(audio):
                yield data
    yield encoder.finish()


async def _chunks(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(rest):
        yield first
        async for data in rest:
            yield data


async def _events(
    first: bytes, rest: AsyncGenerator[bytes, None], text: str
) -> AsyncGenerator[str, None]:
    async with aclosing(_chunks(first, rest)) as pieces:
        async for data in pieces:
            yield _event({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})
    words = len(text.split())
    usage = {"input_tokens": words, "output_tokens": 0, "total_tokens": words}
    yield _event({"type": "speech.audio.done", "usage": usage})


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"
