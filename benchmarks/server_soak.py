"""Many restless clients of one `ttt-server` for minutes: does it stay as it was?

    python -m benchmarks.server_soak [--minutes 10] [--clients 8] [--seed 0] [--bundle DIR]

Each client does at random what clients do: asks by hand or by voice, interrupts, truncates,
cancels, vanishes in the middle, sends garbage (frames, events, HTTP, Wyoming), asks for speech and
leaves. Held: a lone client's answers, to the sample, before and after; memory that does not grow;
no session, connection or turn left; no defect counted and no traceback in the log.

Prints a table, then one JSON document; exit code 1 if something did not hold.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import random
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, Final

import typer
from websockets.exceptions import ConnectionClosed

from benchmarks.realtime_client import Person, Server, running_server
from benchmarks.server_load import questions
from ttt_ref.errors import exit_on_error

MOST_GROWTH_MB: Final = 25.0  # from a quarter of the time on
_LEAVES: Final = (OSError, ConnectionClosed, TimeoutError)


async def lone(server: Server, clips: list[bytes]) -> list[str]:
    """Return what a client that is alone hears: a hash of each answer's sound."""
    heard = []
    async with Person(server) as person:
        await person.detection(None)
        for clip in clips:
            await person.speak(clip, speed=0)
            await person.commit()
            sound = hashlib.sha256()
            while (event := await person.next())["type"] != "response.done":
                if event["type"] == "response.output_audio.delta":
                    sound.update(base64.b64decode(event["delta"]))
            heard.append(sound.hexdigest())
    return heard


class Restless:
    """One client slot: what it does at random, and how often."""

    def __init__(self, server: Server, clips: list[bytes], seed: int) -> None:
        self._server = server
        self._clips = clips
        self._draw = random.Random(seed)
        self.done: dict[str, int] = {}

    async def run(self, ends_at: float) -> None:
        """Go on until the time is over."""
        plain = (self.by_hand, self.by_hand, self.by_voice, self.interrupted, self.cancelled)
        acts = (*plain, self.vanishes, self.garbage_events, self.garbage_bytes, self.leaves_speech)
        while monotonic() < ends_at:
            act = self._draw.choice(acts)
            name = act.__name__
            try:
                await asyncio.wait_for(act(), 60)
            except _LEAVES as error:
                if not name.startswith(("garbage", "vanishes")):
                    name = f"{name}: {type(error).__name__}"
            self.done[name] = self.done.get(name, 0) + 1
            await asyncio.sleep(self._draw.random())

    def _clip(self) -> bytes:
        return self._draw.choice(self._clips)

    async def by_hand(self) -> None:
        """Two turns of push-to-talk."""
        async with Person(self._server) as person:
            await person.detection(None)
            for _ in range(2):
                await person.speak(self._clip(), speed=4)
                await person.commit()
                await person.until("response.done")

    async def by_voice(self) -> None:
        """A turn that ends by itself."""
        async with Person(self._server) as person:
            await person.detection({"type": self._draw.choice(("server_vad", "semantic_vad"))})
            await person.speak(self._clip() + bytes(96_000), speed=2)
            await person.until("response.done", "input_audio_buffer.speech_stopped")

    async def interrupted(self) -> None:
        """An answer spoken over and truncated."""
        async with Person(self._server) as person:
            await person.detection({"type": "server_vad"})
            await person.speak(self._clip() + bytes(60_000), speed=4)
            event = await person.until("response.output_audio.delta", seconds=20)
            await person.send("conversation.item.truncate", item_id=event["item_id"],
                              content_index=0, audio_end_ms=self._draw.randrange(3000))  # fmt: skip
            await person.speak(self._clip() + bytes(60_000), speed=4)
            await person.until("conversation.item.truncated")

    async def cancelled(self) -> None:
        """A response cancelled at a random moment."""
        async with Person(self._server) as person:
            await person.detection(None)
            await person.speak(self._clip(), speed=0)
            await person.commit()
            await asyncio.sleep(self._draw.random() * 0.3)
            await person.send("response.cancel")
            await person.until("response.done", "error")

    async def vanishes(self) -> None:
        """No farewell: the connection is reset."""
        person = Person(self._server)
        await person.__aenter__()
        await person.speak(self._clip(), speed=0)
        if self._draw.random() < 0.5:
            await person.commit()
        await asyncio.sleep(self._draw.random() * 0.5)
        person.socket.transport.abort()

    async def garbage_events(self) -> None:
        """Events that are none."""
        async with Person(self._server) as person:
            for _ in range(50):
                word = self._draw.choice(("session.update", "response.create", "tea", ""))
                await person.send(word, session=self._draw.choice((5, [], {"audio": 1}, None)))
            await person.socket.send(self._draw.randbytes(500))
            await person.until("error")

    async def garbage_bytes(self) -> None:
        """Bytes that belong to no protocol, to both ports."""
        server = self._server
        port = self._draw.choice((server.port, server.wyoming_port))
        reader, writer = await asyncio.open_connection(server.host, port)
        with contextlib.closing(writer):
            if port == server.wyoming_port and self._draw.random() < 0.5:
                writer.write(b'{"type": "synthesize", "data": {"text": "good morning"}}\n')
            writer.write(self._draw.randbytes(self._draw.randrange(1, 3000)))
            await writer.drain()
            await asyncio.wait_for(reader.read(100), 1.0)

    async def leaves_speech(self) -> None:
        """Speech asked for over HTTP, and left after the first bytes."""
        reader, writer = await asyncio.open_connection(self._server.host, self._server.port)
        body = json.dumps({"input": "good morning. " * 20, "response_format": "pcm"}).encode()
        head = "POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
        with contextlib.closing(writer):
            writer.write(f"{head}{len(body)}\r\n\r\n".encode() + body)
            await asyncio.wait_for(reader.read(1000), 30)


async def soak(server: Server, clips: list[bytes], clients: int, minutes: float, seed: int) -> Any:
    """Return what was found."""
    before = await lone(server, clips)
    began = monotonic()
    ends_at = began + 60 * minutes
    slots = [Restless(server, clips, seed * 1000 + number) for number in range(clients)]
    tasks = [asyncio.create_task(slot.run(ends_at)) for slot in slots]
    memory: list[float] = []
    while not all(task.done() for task in tasks):
        await asyncio.wait(tasks, timeout=5.0)
        memory.append(server.rss_mb())
    await asyncio.gather(*tasks)
    for _ in range(100):  # what ends a connection for certain takes some seconds
        left = {name: await asyncio.to_thread(server.metric, f"ttt_{name}")
                for name in ("sessions", "wyoming_connections", "waiting_turns")}  # fmt: skip
        if not any(left.values()):
            break
        await asyncio.sleep(0.3)
    done: dict[str, int] = {}
    for slot in slots:
        for name, count in slot.done.items():
            done[name] = done.get(name, 0) + count
    after = await lone(server, clips)
    settled = memory[len(memory) // 4]
    return {
        "minutes": minutes,
        "clients": clients,
        "acts": dict(sorted(done.items())),
        "left over": {name: int(value) for name, value in left.items()},
        "defects": int(await asyncio.to_thread(server.metric, "ttt_defects_total")),
        "tracebacks in the log": server.log.read_text().count("Traceback"),
        "memory MB": [round(settled, 1), round(max(memory[-4:]), 1)],
        "memory by eighths MB": [round(memory[len(memory) * i // 8]) for i in range(8)],
        "lone answers unchanged": before == after,
    }


def problems(found: dict[str, Any]) -> list[str]:
    """Return what did not hold."""
    settled, last = found["memory MB"]
    failed = [name for name in found["acts"] if ":" in name]
    checks = {
        "something is left": not any(found["left over"].values()),
        "defects": not found["defects"] and not found["tracebacks in the log"],
        f"memory grew by {last - settled:.1f} MB": last - settled <= MOST_GROWTH_MB,
        "a lone client is answered differently": found["lone answers unchanged"],
        f"plain clients failed: {', '.join(failed)}": not failed,
    }
    return [name for name, holds in checks.items() if not holds]


def main(
    minutes: Annotated[float, typer.Option(min=0.1)] = 10.0,
    clients: Annotated[int, typer.Option(min=1)] = 8,
    seed: Annotated[int, typer.Option()] = 0,
    bundle: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Soak, print."""
    clips = questions(None)
    with running_server(bundle) as server:
        found = asyncio.run(soak(server, clips, clients, minutes, seed))
        if found["tracebacks in the log"]:
            print(server.log.read_text()[-4000:])
    for key, value in found.items():
        print(f"{key:<24}{value}")
    wrong = problems(found)
    print(json.dumps({**found, "problems": wrong}))
    if wrong:
        raise SystemExit("did not hold: " + "; ".join(wrong))


if __name__ == "__main__":
    with exit_on_error():
        typer.run(main)
