"""Wyoming clients that break the rules, and nobody else is disturbed."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import time
from dataclasses import replace

import pytest

from tests.runtime.server.hostile import (
    LIMITS,
    connected,
    fuzzed,
    rest,
    wait_until,
)
from ttt_runtime.server.state import ServerState

pytestmark = pytest.mark.usefixtures("nobody_is_disturbed")
STARTS = (b"{", b'{"type"', b'{"type":"ping","data_length":9}\n{', b" ")


def test_a_wyoming_event_in_drips_is_cut_off(strict: ServerState) -> None:
    """A connection may be silent for long, an event that has begun may not: four of them took all
    connections for half an hour."""
    slow = [connected(strict.wyoming_port) for _ in range(LIMITS.wyoming_connections)]
    for sock, start in zip(slow, STARTS, strict=True):
        sock.sendall(start)
    for sock in slow:
        sock.settimeout(3)
        assert b"Traceback" not in rest(sock)
        sock.close()


def test_random_wyoming_bytes(strict: ServerState) -> None:
    draw = random.Random(8)
    kinds = ("describe", "ping", "transcribe", "audio-start", "audio-chunk", "audio-stop",
             "synthesize", "synthesize-start", "synthesize-chunk", "synthesize-stop")  # fmt: skip
    for _ in range(12):
        wait_until(lambda: strict.wyoming_connections < LIMITS.wyoming_connections)
        with connected(strict.wyoming_port) as sock, contextlib.suppress(ConnectionError):
            for _ in range(draw.randrange(1, 12)):
                payload = draw.randbytes(draw.randrange(60))
                data = {
                    draw.choice(("rate", "width", "channels", "text", "voice")): fuzzed(draw, 2)
                }
                head = {"type": draw.choice(kinds), "data": data, "payload_length": len(payload)}
                noise = draw.randbytes(20) if draw.random() < 0.1 else b""
                sock.sendall(noise + json.dumps(head).encode() + b"\n" + payload)
            sock.shutdown(socket.SHUT_WR)
            assert b"Traceback" not in rest(sock)


def test_a_wyoming_client_that_does_not_read_is_left(strict: ServerState) -> None:
    text = json.dumps({"type": "synthesize", "data": {"text": "hello there. " * 20}}).encode()
    with connected(strict.wyoming_port) as sock:
        sock.sendall((text + b"\n") * 3)
        time.sleep(0.3)


def test_limits_that_let_nobody_in_are_refused() -> None:
    with pytest.raises(ValueError, match="flood_seconds"):
        replace(LIMITS, flood_seconds=0.0)
