"""What measurements of the server share: its process, and a client of the Realtime protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Final

import numpy as np
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.live.voices import Audio
from ttt_ref.errors import ConfigError

RATE_HZ: Final = 24_000
ROOT: Final = Path(__file__).resolve().parents[1]
_PROGRAM: Final = "from ttt_runtime.cli.server import main; main()"


@dataclass(frozen=True)
class Server:
    """A running `ttt-server`."""

    host: str
    port: int
    wyoming_port: int
    pid: int
    log: Path

    def get(self, path: str) -> bytes:
        """Return what a path of it says."""
        with urllib.request.urlopen(f"http://{self.host}:{self.port}{path}", timeout=10) as reply:
            data: bytes = reply.read()
        return data

    def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        lines = self.get("/metrics").decode().splitlines()
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith((f"{name} ", f"{name}{{"))
        )

    def rss_mb(self) -> float:
        """Return the memory of the process that lies in RAM."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def cpu_seconds(self) -> float:
        """Return the processor time of the process so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))


@contextlib.contextmanager
def running_server(bundle: Path | None, *options: str) -> Iterator[Server]:
    """Run `ttt-server` on free ports while the block runs; it is ready when the block begins."""
    command = [sys.executable, "-c", _PROGRAM, *([] if bundle is None else [str(bundle)])]
    paths = [str(ROOT / name) for name in ("export", "runtime", "quant", ".")]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [*command, "--port", "0", "--wyoming-port", "0", *options],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
        try:
            assert process.stdout is not None
            ports = []
            for _ in range(2):
                line = process.stdout.readline().strip().rstrip("/")
                if not line:
                    raise ConfigError(f"the server did not start: {log.read_text()[-300:]}")
                ports.append(int(line.rpartition(":")[2]))
            server = Server("127.0.0.1", ports[0], ports[1], process.pid, log)
            _wait_ready(server)
            yield server
        finally:
            process.terminate()
            process.wait(30)


def _wait_ready(server: Server) -> None:
    ends_at = monotonic() + 120
    while monotonic() < ends_at:
        with contextlib.suppress(OSError):
            server.get("/health/ready")
            return
    raise ConfigError("the server was not ready after two minutes; see its log")


def pcm(audio: Audio) -> bytes:
    """Return audio float32 [T] at 24 kHz as the protocol's bytes."""
    return (np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes()


class Person:
    """One client: speaks, hears, interrupts."""

    def __init__(self, server: Server) -> None:
        self._url = f"ws://{server.host}:{server.port}/v1/realtime"
        self._socket: ClientConnection | None = None

    @property
    def socket(self) -> ClientConnection:
        """The connection."""
        assert self._socket is not None
        return self._socket

    async def __aenter__(self) -> Person:
        self._socket = await connect(self._url, max_size=None, compression=None)
        await self.until("session.created")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.socket.close()

    async def send(self, kind: str, **fields: Any) -> None:
        """Send an event."""
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def next(self, seconds: float = 60.0) -> dict[str, Any]:
        """Return the next event; TimeoutError if none comes."""
        event: dict[str, Any] = json.loads(await asyncio.wait_for(self.socket.recv(), seconds))
        return event

    async def until(self, *kinds: str, seconds: float = 60.0) -> dict[str, Any]:
        """Return the next event of these kinds."""
        while (event := await self.next(seconds))["type"] not in kinds:
            continue
        return event

    async def detection(self, detection: dict[str, Any] | None) -> None:
        """Choose how turns end; None: by hand."""
        audio = {"input": {"turn_detection": detection}}
        await self.send("session.update", session={"type": "realtime", "audio": audio})
        await self.until("session.updated")

    async def speak(self, data: bytes, *, speed: float = 1.0) -> None:
        """Send sound as a microphone would; `speed` times as fast, 0: at once."""
        step = RATE_HZ // 10 * 2
        began = monotonic()
        for number, start in enumerate(range(0, len(data), step)):
            piece = base64.b64encode(data[start : start + step]).decode()
            await self.send("input_audio_buffer.append", audio=piece)
            if speed:
                ahead = began + (number + 1) * 0.1 / speed - monotonic()
                await asyncio.sleep(max(ahead, 0.0))

    async def commit(self) -> float:
        """End the turn by hand and ask for the answer; return when that was."""
        await self.send("input_audio_buffer.commit")
        await self.send("response.create")
        return monotonic()
