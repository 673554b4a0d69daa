"""What clients that break the rules are made of: raw sockets, frames, random values."""

from __future__ import annotations

import base64
import contextlib
import random
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ttt_runtime.server.options import Limits
from ttt_runtime.server.state import ServerState

LIMITS = Limits(
    sessions=4,
    connections=48,
    wyoming_connections=4,
    requests_per_second=0,
    messages_per_second=2000,
    flood_seconds=0.5,
    message_bytes=256 << 10,
    upload_bytes=128 << 10,
    unsent_bytes=64 << 10,
    max_seconds=5.0,
    header_seconds=0.4,
    unread_seconds=0.4,
)
FREED_SECONDS = 8.0
TONE = (np.sin(np.arange(24000) / 5) * 20000).astype("<i2").tobytes()


def wait_until(holds: Callable[[], bool], seconds: float = FREED_SECONDS) -> None:
    ends_at = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends_at, "a slot was not freed in time"
        time.sleep(0.02)


def connected(port: int | None) -> socket.socket:
    assert port is not None
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def rest(sock: socket.socket) -> bytes:
    """Read until the server ends the connection."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while piece := sock.recv(65536):
            data += piece
    return data


def http(state: ServerState, request: bytes) -> bytes:
    """Send raw bytes; return all that comes back."""
    with connected(state.port) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(request)
        return rest(sock)


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *headers]
    if not any(line.lower().startswith("transfer-encoding") for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def websocket(state: ServerState) -> socket.socket:
    """Return a socket whose handshake is done, for frames of one's own."""
    sock = connected(state.port)
    sock.sendall(
        b"GET /v1/realtime HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: "
        b"Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        b"Sec-WebSocket-Version: 13\r\n\r\n"
    )
    assert b" 101 " in sock.recv(13)
    return sock


def frame(data: bytes, opcode: int = 1, *, fin: bool = True, masked: bool = True) -> bytes:
    head = bytes([(0x80 if fin else 0) | opcode])
    mark = 0x80 if masked else 0
    if len(data) < 126:
        head += bytes([mark | len(data)])
    elif len(data) < 65536:
        head += bytes([mark | 126]) + struct.pack("!H", len(data))
    else:
        head += bytes([mark | 127]) + struct.pack("!Q", len(data))
    return head + (bytes(4) if masked else b"") + data


FIELDS = (
    "session", "audio", "response", "item", "item_id", "previous_item_id", "audio_end_ms",
    "content_index", "event_id", "output_modalities", "input", "turn_detection", "format", "type",
    "role", "content", "text", "conversation", "metadata", "id", "rate", "threshold",
    "transcription", "silence_duration_ms", "idle_timeout_ms", "eagerness", "include",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1e308, 10**30, 0.5, "", "x", "realtime", "audio/pcm", "server_vad",
    "semantic_vad", "\x00", "\ud800", "message", "user", "assistant", "input_text", "input_audio",
    base64.b64encode(b"\x01\x02\x03").decode(), [], {}, [[]], ["audio"], ["text"], "none",
)  # fmt: skip


def fuzzed(draw: random.Random, depth: int = 0) -> Any:
    if depth < 4 and draw.random() < 0.45:
        count = draw.randrange(4)
        return {draw.choice(FIELDS): fuzzed(draw, depth + 1) for _ in range(count)}
    if depth < 4 and draw.random() < 0.1:
        return [fuzzed(draw, depth + 1) for _ in range(draw.randrange(3))]
    return draw.choice(_VALUES)


def send_all(sock: socket.socket, data: bytes, times: int) -> None:
    for _ in range(times):
        sock.sendall(data)
