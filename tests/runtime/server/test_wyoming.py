"""Wyoming over TCP, with the protocol's own library as the client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from wyoming.asr import Transcribe
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping
from wyoming.tts import (
    Synthesize,
    SynthesizeChunk,
    SynthesizeStart,
    SynthesizeStop,
)

from tests.runtime.server.live_server import HEARD, question
from ttt_runtime.server.state import ServerState

Scenario = Callable[[AsyncTcpClient], Coroutine[Any, Any, None]]


def run(state: ServerState, scenario: Scenario) -> None:
    async def connected() -> None:
        assert state.wyoming_port is not None
        async with AsyncTcpClient("127.0.0.1", state.wyoming_port) as client:
            await asyncio.wait_for(scenario(client), 30)

    asyncio.run(connected())


async def until(client: AsyncTcpClient, kind: str) -> list[Event]:
    events = []
    while (event := await client.read_event()) is not None:
        events.append(event)
        if event.type == kind:
            return events
    raise AssertionError(f"the connection ended before {kind}: {[e.type for e in events]}")


def test_describe_tells_both_programs_with_everything_that_clients_insist_on(
    shipped: ServerState,
) -> None:
    async def scenario(client: AsyncTcpClient) -> None:
        await client.write_event(Describe().event())
        info = Info.from_event((await until(client, "info"))[-1])
        assert info.asr[0].models[0].languages == ["en"]
        assert info.asr[0].supports_transcript_streaming
        assert info.tts[0].supports_synthesize_streaming
        for artifact in (info.asr[0], info.asr[0].models[0], info.tts[0], info.tts[0].voices[0]):
            assert artifact.installed
            assert artifact.version
            assert artifact.attribution.url.startswith("https://")

    run(shipped, scenario)


@pytest.mark.parametrize(("rate", "width", "channels"), [(16000, 2, 1), (48000, 2, 2)])
def test_speech_to_text(shipped: ServerState, rate: int, width: int, channels: int) -> None:
    mono = np.frombuffer(question(rate), "<i2")
    data = np.repeat(mono[:, None], channels, axis=1).tobytes()

    async def scenario(client: AsyncTcpClient) -> None:
        for _ in range(2):
            await client.write_event(Transcribe(language="en").event())
            await client.write_event(AudioStart(rate, width, channels).event())
            for start in range(0, len(data), 8192):
                chunk = AudioChunk(rate, width, channels, data[start : start + 8192])
                await client.write_event(chunk.event())
            await client.write_event(AudioStop().event())
            events = await until(client, "transcript-stop")
            kinds = [event.type for event in events]
            assert kinds[0] == "transcript-start"
            assert kinds[-2] == "transcript"
            assert events[-2].data["text"] == HEARD
            chunks = [e.data["text"] for e in events if e.type == "transcript-chunk"]
            assert "".join(chunks).strip() == HEARD

    run(shipped, scenario)


def test_text_to_speech(shipped: ServerState) -> None:
    async def scenario(client: AsyncTcpClient) -> None:
        await client.write_event(Synthesize("good morning").event())
        events = await until(client, "audio-stop")
        assert events[0].type == "audio-start"
        sound = b"".join(e.payload or b"" for e in events)
        assert len(sound) > 16000
        assert events[1].data["rate"] == 16000

    run(shipped, scenario)


def test_a_streamed_text_is_spoken_once_and_from_its_first_sentence_on(
    shipped: ServerState,
) -> None:
    """Clients repeat a streamed text as a whole for servers that do not stream: it came twice."""

    async def scenario(client: AsyncTcpClient) -> None:
        await client.write_event(SynthesizeStart().event())
        await client.write_event(SynthesizeChunk("good morning. good ").event())
        first = await until(client, "audio-chunk")
        assert first[0].type == "audio-start"
        await client.write_event(SynthesizeChunk("morning").event())
        await client.write_event(Synthesize("good morning. good morning").event())
        await client.write_event(SynthesizeStop().event())
        events = first + await until(client, "synthesize-stopped")
        kinds = [event.type for event in events]
        assert kinds.count("audio-start") == kinds.count("audio-stop") == 1
        seconds = sum(len(e.payload or b"") for e in events) / 32000
        assert 1.5 < seconds < 4.5

    run(shipped, scenario)


def test_ping_and_events_from_the_future(shipped: ServerState) -> None:
    async def scenario(client: AsyncTcpClient) -> None:
        await client.write_event(Event("telepathy", {"x": 1}))
        await client.write_event(Ping("here").event())
        assert (await until(client, "pong"))[-1].data["text"] == "here"

    run(shipped, scenario)


@pytest.mark.parametrize(
    ("event", "word"),
    [
        (Synthesize("").event(), "at least one word"),
        (Synthesize("x " * 2000).event(), "at most 2000"),
        (Event("synthesize", {"text": 5}), "at least one word"),
        (SynthesizeChunk("x").event(), "without synthesize-start"),
        (Event("audio-start", {"rate": 1, "width": 2, "channels": 1}), "rate 1"),
        (Event("audio-start", {"rate": True, "width": 2, "channels": 1}), "rate True"),
    ],
)
def test_what_cannot_be_done_is_told_and_the_connection_goes_on(
    shipped: ServerState, event: Event, word: str
) -> None:
    async def scenario(client: AsyncTcpClient) -> None:
        await client.write_event(event)
        assert word in (await until(client, "error"))[-1].data["text"]
        await client.write_event(Ping("still").event())
        await until(client, "pong")

    run(shipped, scenario)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00" * 200_000,
        b"{}\n",
        b"[1]\n",
        b'{"type": "ping", "payload_length": 99999999999}\n',
        b'{"type": "ping", "data_length": -1}\n',
        b'{"type": "ping", "data": [1]}\n',
        b"[" * 60_000 + b"\n",
        b'{"type": "ping", "data_length": 100}\n{}',
    ],
)
def test_garbage_ends_its_own_connection_only(shipped: ServerState, data: bytes) -> None:
    async def scenario() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", shipped.wyoming_port)
        writer.write(data)
        try:  # the server may have left already
            writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), 10)
        except OSError:
            answer = b""
        assert b"Traceback" not in answer
        writer.close()

    asyncio.run(scenario())
    assert shipped.metrics.defects.value() == 0
    test_ping_and_events_from_the_future(shipped)
