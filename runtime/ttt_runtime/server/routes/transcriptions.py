"""`POST /v1/audio/transcriptions`: a sound file to text."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from ttt_runtime.dialogue.assistant import TextPart
from ttt_runtime.server.errors import ApiError
from ttt_runtime.server.recordings import heard, read_recording
from ttt_runtime.server.segments import Span, speech_spans
from ttt_runtime.server.state import ServerState

FORMATS: Final = ("json", "text", "verbose_json", "srt", "vtt")


@dataclass(frozen=True, slots=True)
class Segment:
    """What was said between two times."""

    start_s: float
    end_s: float
    text: str


async def transcriptions(request: Request) -> Response:
    """Transcribe an uploaded file."""
    state: ServerState = request.app.state.server
    async with request.form(max_files=1, max_fields=32) as form:
        upload = form.get("file")
        if not isinstance(upload, UploadFile):
            raise ApiError("file is missing; send a sound file as multipart/form-data")
        form_name = form.get("response_format", "json")
        if form_name not in FORMATS:
            raise ApiError(
                f"response_format is {form_name!r:.60}; expected one of {', '.join(FORMATS)}",
                param="response_format",
            )
        if "transcribe" not in state.service.assistant.prompts.prompts.system:
            raise ApiError("this bundle does not transcribe; use one with the task transcribe")
        name = (upload.filename or "file")[-80:]
        seconds = state.options.limits.max_seconds
        audio = await read_recording(state.service, upload.file, name, seconds)
    rate_hz = _rate_hz(state)
    duration_s = len(audio) / rate_hz
    spans = await speech_spans(state.service, audio)
    segments = _segments(state, audio, spans)
    if form.get("stream") in ("true", "1", "True"):
        return StreamingResponse(_events(segments, duration_s), media_type="text/event-stream")
    found = [segment async for segment in segments]
    return _whole(str(form_name), found, duration_s)


def _rate_hz(state: ServerState) -> int:
    assert state.service.assistant.tokenizer is not None
    return state.service.assistant.tokenizer.sample_rate_hz


async def _segments(state: ServerState, audio: Any, spans: list[Span]) -> AsyncIterator[Segment]:
    rate_hz = _rate_hz(state)
    for span in spans:
        piece = audio[span.start : span.stop]
        text = await _transcribed(state, piece)
        yield Segment(span.start / rate_hz, span.stop / rate_hz, text)


async def _transcribed(state: ServerState, audio: Any) -> str:
    service = state.service
    utterance = await heard(service, audio, state.options.limits.max_seconds)
    if not utterance.codes:
        return ""
    content = service.assistant.prompts.speech(utterance.codes)
    turn = service.turn(
        lambda cancel: service.assistant.respond("transcribe", content, cancel=cancel)
    )
    status, text = "cancelled", ""
    try:
        async for part in turn:
            if isinstance(part, TextPart):
                text += part.text
        status = "completed"
    finally:
        turn.cancel()
        service.metrics.turn_ended("transcribe", status, turn.reply)
    return turn.reply.heard if turn.reply is not None else text.strip()


async def _events(segments: AsyncIterator[Segment], duration_s: float) -> AsyncIterator[str]:
    texts: list[str] = []
    async for segment in segments:
        if segment.text:
            delta = f" {segment.text}" if texts else segment.text
            texts.append(segment.text)
            yield _event({"type": "transcript.text.delta", "delta": delta})
    usage = {"type": "duration", "seconds": round(duration_s, 3)}
    yield _event({"type": "transcript.text.done", "text": " ".join(texts), "usage": usage})


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def _whole(form: str, segments: list[Segment], duration_s: float) -> Response:
    text = " ".join(segment.text for segment in segments if segment.text)
    if form == "text":
        return PlainTextResponse(text + "\n")
    if form in ("srt", "vtt"):
        return PlainTextResponse(_subtitles(form, segments))
    usage = {"type": "duration", "seconds": round(duration_s, 3)}
    result: dict[str, Any] = {"text": text, "usage": usage}
    if form == "verbose_json":
        result |= {
            "task": "transcribe",
            "language": "english",
            "duration": round(duration_s, 3),
            "segments": [
                {
                    "id": number,
                    "start": round(segment.start_s, 3),
                    "end": round(segment.end_s, 3),
                    "text": segment.text,
                }
                for number, segment in enumerate(segments)
            ],
        }
    return JSONResponse(result)


def _subtitles(form: str, segments: list[Segment]) -> str:
    mark = "," if form == "srt" else "."
    lines = ["WEBVTT", ""] if form == "vtt" else []
    for number, segment in enumerate((s for s in segments if s.text), 1):
        if form == "srt":
            lines.append(str(number))
        begin, end = _clock(segment.start_s, mark), _clock(segment.end_s, mark)
        lines += [f"{begin} --> {end}", segment.text, ""]
    return "\n".join(lines)


def _clock(seconds: float, mark: str) -> str:
    ms = round(seconds * 1e3)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{mark}{ms % 1000:03}"
