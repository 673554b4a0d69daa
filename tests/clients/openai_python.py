"""OpenAI's own Python client: Realtime (two turns by voice, an interruption, one by hand), audio.

python tests/clients/openai_python.py http://127.0.0.1:8017 QUESTION.wav
"""

from __future__ import annotations

import asyncio
import base64
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from openai import AsyncOpenAI


def pcm(path: Path, tail_s: float) -> bytes:
    """The question as the API wants it, with silence behind it."""
    audio, rate = soundfile.read(path, dtype="float32")
    audio = soxr.resample(audio, rate, 24000)
    audio = np.concatenate([audio, np.zeros(int(tail_s * 24000), np.float32)])
    return (audio * 32767).astype("<i2").tobytes()


async def until(connection: Any, kind: str) -> Any:
    async for event in connection:
        if event.type == "error":
            raise AssertionError(event.error)
        if event.type == kind:
            return event
    raise AssertionError(f"the connection ended before {kind}")


async def append(connection: Any, data: bytes) -> None:
    for start in range(0, len(data), 9600):
        piece = base64.b64encode(data[start : start + 9600]).decode()
        await connection.input_audio_buffer.append(audio=piece)


async def realtime(client: AsyncOpenAI, question: Path) -> None:
    async with client.realtime.connect(model="ttt") as connection:
        await until(connection, "session.created")
        await connection.session.update(
            session={"type": "realtime", "audio": {"input": {"turn_detection": {
                "type": "server_vad"}}}}
        )  # fmt: skip
        await until(connection, "session.updated")
        await append(connection, pcm(question, 1.0))
        delta = await until(connection, "response.output_audio.delta")
        await append(connection, pcm(question, 1.0))  # over the answer
        await until(connection, "input_audio_buffer.speech_started")
        await connection.conversation.item.truncate(
            item_id=delta.item_id, content_index=0, audio_end_ms=300
        )
        truncated = await until(connection, "conversation.item.truncated")
        assert truncated.audio_end_ms == 300, truncated
        # A short answer was sent whole before anybody could interrupt it: only the client knows.
        done = await until(connection, "response.done")
        while done.response.id == delta.response_id:
            assert done.response.status in ("cancelled", "completed"), done.response
            done = await until(connection, "response.done")
        assert done.response.status == "completed", done.response
        assert done.response.output[0].content[0].transcript
        await connection.session.update(
            session={"type": "realtime", "audio": {"input": {"turn_detection": None}}}
        )
        await append(connection, pcm(question, 0.0))
        await connection.input_audio_buffer.commit()
        await connection.response.create()
        done = await until(connection, "response.done")
        assert "paris" in done.response.output[0].content[0].transcript, done.response


async def audio(client: AsyncOpenAI, question: Path) -> None:
    text = "the capital of france is paris"
    for kind in ("mp3", "opus", "flac", "wav", "pcm"):
        speech = await client.audio.speech.create(
            model="ttt", voice="alloy", input=text, response_format=kind
        )
        assert len(speech.content) > 5000, kind
    async with client.audio.speech.with_streaming_response.create(
        model="ttt", voice="alloy", input=text, response_format="pcm"
    ) as stream:
        pieces = [piece async for piece in stream.iter_bytes()]
    assert len(pieces) > 1
    with question.open("rb") as file:
        heard = await client.audio.transcriptions.create(model="ttt", file=file)
    assert "france" in heard.text, heard
    with question.open("rb") as file:
        stream = await client.audio.transcriptions.create(model="ttt", file=file, stream=True)
        events = [event async for event in stream]
    assert events[-1].type == "transcript.text.done", events
    models = [model.id async for model in client.models.list()]
    assert len(models) == 1, models
    data = base64.b64encode(question.read_bytes()).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    answer = await client.chat.completions.create(
        model="ttt",
        messages=[{"role": "user", "content": [part]}],
        modalities=["text", "audio"],
        audio={"voice": "alloy", "format": "wav"},
    )
    assert "paris" in answer.choices[0].message.audio.transcript


async def main() -> None:
    url, question = sys.argv[1], Path(sys.argv[2])
    client = AsyncOpenAI(api_key="none", base_url=f"{url}/v1")
    await realtime(client, question)
    await audio(client, question)
    print("openai (Python): two turns by voice with an interruption, one by hand, audio, chat")


asyncio.run(main())
