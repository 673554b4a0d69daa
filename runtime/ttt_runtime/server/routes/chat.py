"""`POST /v1/chat/completions`: a conversation in, text and (if asked for) sound out."""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from threading import Event
from time import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from ttt_runtime.dialogue.assistant import AudioPart, Part, Reply, TextPart
from ttt_runtime.server.audio_formats import FileEncoder, FileFormat, parse_file_format
from ttt_runtime.server.conversation import Item, is_silence, turn_ids
from ttt_runtime.server.errors import ApiError
from ttt_runtime.server.ids import new_id
from ttt_runtime.server.json_limits import parse_object
from ttt_runtime.server.recordings import heard, read_recording
from ttt_runtime.server.service import Turn
from ttt_runtime.server.state import ServerState
from ttt_runtime.server.transcript_split import TranscriptSplit

_MOST_MESSAGES = 256


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the answer is to look like."""

    file_format: FileFormat | None  # None: text only
    model: str
    transcript_first: bool


async def chat(request: Request) -> Response:
    """Answer the last message of the user."""
    state: ServerState = request.app.state.server
    body = parse_object(await request.body())
    messages = body.get("messages")
    if not isinstance(messages, list) or not 0 < len(messages) <= _MOST_MESSAGES:
        raise ApiError(f"messages must be a list of 1 to {_MOST_MESSAGES}", param="messages")
    items = [await _item(state, message) for message in messages]
    first = state.service.assistant.prompts.prompts.transcript_first
    asked = _Asked(_file_format(state, body), state.model_name, first and not is_silence(items))
    turn = _begin(state, items, speak=asked.file_format is not None)
    if body.get("stream") is True:
        return StreamingResponse(_events(state, turn, asked), media_type="text/event-stream")
    return JSONResponse(await _whole(state, turn, asked))


def _file_format(state: ServerState, body: dict[str, Any]) -> FileFormat | None:
    modalities = body.get("modalities", ["text"])
    if not isinstance(modalities, list) or not set(modalities) <= {"text", "audio"}:
        raise ApiError(
            f"modalities is {modalities!r:.60}; expected text, or text and audio",
            param="modalities",
        )
    if "audio" not in modalities:
        return None
    audio = body.get("audio")
    wanted = audio.get("format", "wav") if isinstance(audio, dict) else "wav"
    return parse_file_format("pcm" if wanted == "pcm16" else wanted, "audio.format")


def _begin(state: ServerState, items: list[Item], *, speak: bool) -> Turn:
    assistant = state.service.assistant
    ids = turn_ids(
        items, assistant.prompts, "answer", assistant.config, assistant.engine.runner.capacity
    )

    def begin(cancel: Event) -> Iterator[Part]:
        return assistant.respond(
            "answer",
            ids.content,
            history=ids.history,
            transcript=ids.transcript,
            cancel=cancel,
            speak=speak,
        )

    return state.service.turn(begin)


async def _item(state: ServerState, message: Any) -> Item:
    role = message.get("role") if isinstance(message, dict) else None
    if role not in ("system", "developer", "user", "assistant"):
        raise ApiError(f"a message has the role {role!r:.60}", param="messages")
    content = message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    item = Item(new_id("msg"), role, [], typed=True)
    for part in parts if isinstance(parts, list) else []:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            if role in ("user", "assistant"):
                item.ids += state.service.assistant.prompts.encode_plain(part["text"])
        elif kind == "input_audio":
            item.typed = False
            item.ids += await _speech(state, part.get("input_audio"))
        else:
            raise ApiError(
                f"a part of a message has the type {kind!r:.60}; expected text or input_audio",
                param="messages",
            )
    if role == "assistant" and item.ids:
        item.ids.append(state.service.assistant.prompts.layout.im_end_id)
    return item


async def _speech(state: ServerState, value: Any) -> list[int]:
    data = value.get("data") if isinstance(value, dict) else None
    try:
        file = io.BytesIO(base64.b64decode(data if isinstance(data, str) else "*", validate=True))
    except (ValueError, binascii.Error):
        raise ApiError("input_audio.data must be a sound file in base64") from None
    seconds = state.options.limits.max_seconds
    audio = await read_recording(state.service, file, "input_audio", seconds)
    utterance = await heard(state.service, audio, seconds)
    return state.service.assistant.prompts.speech(utterance.codes) if utterance.codes else []


async def _parts(state: ServerState, turn: Turn) -> AsyncGenerator[Part, None]:
    status = "cancelled"
    try:
        async for part in turn:
            yield part
        status = "completed"
    finally:
        turn.cancel()
        state.metrics.turn_ended("answer", status, turn.reply)


def _encoder(state: ServerState, asked: _Asked) -> FileEncoder | None:
    decoder = state.service.assistant.decoder
    if asked.file_format is None or decoder is None:
        return None
    return FileEncoder(asked.file_format, decoder.sample_rate_hz)


async def _whole(state: ServerState, turn: Turn, asked: _Asked) -> dict[str, Any]:
    encoder = _encoder(state, asked)
    sound = bytearray()
    async for part in _parts(state, turn):
        if isinstance(part, AudioPart) and encoder is not None:
            sound += encoder.push(part.audio)
    reply = turn.reply
    assert reply is not None
    message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
    if encoder is not None:
        sound += encoder.finish()
        message["content"] = None
        message["audio"] = {
            "id": new_id("audio"),
            "data": base64.b64encode(sound).decode(),
            "expires_at": int(time()),
            "transcript": reply.text,
        }
    choice = {"index": 0, "message": message, "finish_reason": _reason(reply), "logprobs": None}
    answer = _frame(asked, "chat.completion", new_id("chatcmpl"), choice)
    return {**answer, "usage": _usage(reply)}


async def _events(state: ServerState, turn: Turn, asked: _Asked) -> AsyncGenerator[str, None]:
    encoder = _encoder(state, asked)
    name, audio_id = new_id("chatcmpl"), new_id("audio")
    split = TranscriptSplit(asked.transcript_first)

    def event(delta: dict[str, Any], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        chunk = _frame(asked, "chat.completion.chunk", name, choice)
        return f"data: {json.dumps(chunk)}\n\n"

    def audio_event(**fields: Any) -> str:
        return event({"audio": {"id": audio_id, **fields}})

    yield event({"role": "assistant"})
    async with aclosing(_parts(state, turn)) as parts:
        async for part in parts:
            if isinstance(part, TextPart):
                _, said = split.push(part.text)
                if said:
                    yield audio_event(transcript=said) if encoder else event({"content": said})
            elif (
                isinstance(part, AudioPart)
                and encoder is not None
                and (data := encoder.push(part.audio))
            ):
                yield audio_event(data=base64.b64encode(data).decode())
    if encoder is not None:
        yield audio_event(data=base64.b64encode(encoder.finish()).decode())
    reply = turn.reply
    yield event({}, _reason(reply) if reply is not None else "stop")
    yield "data: [DONE]\n\n"


def _frame(asked: _Asked, kind: str, name: str, choice: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": name,
        "object": kind,
        "created": int(time()),
        "model": asked.model,
        "choices": [choice],
    }


def _reason(reply: Reply) -> str:
    return "length" if reply.reason in ("length", "full") else "stop"


def _usage(reply: Reply) -> dict[str, int]:
    prompt, whole = reply.prompt_tokens, len(reply.history)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": whole - prompt,
        "total_tokens": whole,
    }
