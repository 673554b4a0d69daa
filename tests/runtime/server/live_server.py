"""A real server on a free port of 127.0.0.1, in a thread of its own, for tests."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from websockets.sync.client import ClientConnection, connect

from ttt_runtime.dialogue.assistant import Assistant
from ttt_runtime.server.options import ServerOptions
from ttt_runtime.server.run import make_state, serving
from ttt_runtime.server.state import ServerState

ROOT = Path(__file__).resolve().parents[3]
BUNDLE = ROOT / "runtime" / "ttt_runtime" / "bundles" / "tiny"
QUESTION = ROOT / "samples" / "question.wav"
HEARD = "tell me the capital of france"
ANSWER = "the capital of france is paris"


@contextlib.contextmanager
def server(assistant: Assistant, options: ServerOptions | None = None) -> Iterator[ServerState]:
    """Serve while the block runs."""
    state = make_state(assistant, "test", options or ServerOptions(port=0, wyoming_port=0))
    started, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()
    failure: list[BaseException] = []

    async def run() -> None:
        async with serving(state):
            while not state.ready:
                await asyncio.sleep(0.005)
            started.set()
            await stop.wait()

    def work() -> None:
        try:
            loop.run_until_complete(run())
        except BaseException as error:
            failure.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert started.wait(60)
    if failure:
        raise failure[0]
    try:
        yield state
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        assert not thread.is_alive(), "the server did not end"
        loop.close()


def question(rate_hz: int = 24000, tail_seconds: float = 0.0) -> bytes:
    """The shipped question as 16-bit PCM, with silence behind it."""
    audio, source_hz = soundfile.read(QUESTION, dtype="float32")
    audio = soxr.resample(audio, source_hz, rate_hz)
    audio = np.concatenate([audio, np.zeros(int(tail_seconds * rate_hz), np.float32)])
    return bytes((audio * 32767).astype("<i2").tobytes())


class RealtimeClient:
    """A plain client of the Realtime protocol; remembers every event."""

    def __init__(self, state: ServerState, **options: Any) -> None:
        url = f"ws://127.0.0.1:{state.port}/v1/realtime?model=test"
        self._connection = connect(url, max_size=None, compression=None, **options)
        self.socket: ClientConnection = self._connection.__enter__()
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> RealtimeClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.__exit__(None, None, None)

    def send(self, kind: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": kind, **fields}))

    def append(self, pcm: bytes, step: int = 9600) -> None:
        for start in range(0, len(pcm), step):
            data = base64.b64encode(pcm[start : start + step]).decode()
            self.send("input_audio_buffer.append", audio=data)

    def next(self, timeout: float = 30.0) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.socket.recv(timeout))
        self.events.append(event)
        return event

    def until(self, kind: str, timeout: float = 30.0) -> dict[str, Any]:
        while True:
            event = self.next(timeout)
            if event["type"] == kind:
                return event

    def update(self, **session: Any) -> dict[str, Any]:
        self.send("session.update", session={"type": "realtime", **session})
        return dict(self.until("session.updated")["session"])

    def manual(self, **session: Any) -> None:
        self.update(audio={"input": {"turn_detection": None}}, **session)

    def ask(self, pcm: bytes) -> None:
        self.append(pcm)
        self.send("input_audio_buffer.commit")
        self.send("response.create")

    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def audio(self) -> bytes:
        return b"".join(
            base64.b64decode(event["delta"])
            for event in self.events
            if event["type"] == "response.output_audio.delta"
        )
