"""HTTP clients that break the rules: refused or cut off, and nobody else is disturbed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import struct
import time

import pytest

from tests.runtime.server.hostile import (
    LIMITS,
    connected,
    fuzzed,
    http,
    post,
    rest,
    wait_until,
)
from tests.runtime.server.live_server import RealtimeClient
from ttt_runtime.server.state import ServerState

pytestmark = pytest.mark.usefixtures("nobody_is_disturbed")

BOMBS = {
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 20_000,
    "wide": b'{"a": [' + b"0," * 60_000 + b"0]}",
    "long number": b'{"a": ' + b"9" * 100_000 + b"}",
    "not a number": b'{"a": NaN}',
    "no text": b"\xff\xfe" * 1000,
    "nothing": b"",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_json_bombs_are_refused_in_one_line(strict: ServerState, bomb: bytes) -> None:
    with RealtimeClient(strict) as client:
        client.socket.send(bomb)
        error = client.until("error")["error"]
        assert error["code"] == "invalid_json"
        assert len(error["message"]) < 200
    for path in ("/v1/chat/completions", "/v1/audio/speech"):
        answer = http(strict, post(path, bomb))
        assert answer.startswith(b"HTTP/1.1 400 "), answer[:80]
        assert b"Traceback" not in answer
    with connected(strict.wyoming_port) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(bomb[:60_000] + b"\n")
            sock.shutdown(socket.SHUT_WR)
        assert b"Traceback" not in rest(sock)


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"G",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ",
        b"POST /v1/audio/speech HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 900\r\n\r\n{",
        b"POST /v1/audio/speech HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n1\r\n",
    ],
)
def test_slow_requests_are_cut_off_and_others_served(strict: ServerState, start: bytes) -> None:
    slow = [connected(strict.port) for _ in range(20)]
    began = time.monotonic()
    for sock in slow:
        sock.sendall(start)
    health = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert b" 200 " in http(strict, health)
    for sock in slow:
        assert b"Traceback" not in rest(sock)
        sock.close()
    assert time.monotonic() - began < 4


def test_a_request_in_drips_is_cut_off_all_the_same(strict: ServerState) -> None:
    began = time.monotonic()
    with connected(strict.port) as sock, contextlib.suppress(ConnectionError):
        sock.sendall(b"GET / HTTP/1.1\r\nX: ")
        for _ in range(200):
            sock.sendall(b"x")
            time.sleep(0.02)
    assert time.monotonic() - began < 3


def test_too_many_connections_are_closed_and_leave_room_again(strict: ServerState) -> None:
    crowd = [connected(strict.port) for _ in range(LIMITS.connections + 20)]
    for sock in crowd:
        rest(sock)
        sock.close()
    crowd = [connected(strict.wyoming_port) for _ in range(LIMITS.wyoming_connections + 4)]
    for sock in crowd:
        sock.close()


def test_answers_that_nobody_reads_hold_no_connection(strict: ServerState) -> None:
    """Their connections, and what they had asked for, stayed for ever."""
    request = b"GET /page/app.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connected(strict.port) as deaf:
        deaf.sendall(request * 2000)

        def is_cut_off() -> bool:
            try:
                deaf.sendall(request)
            except ConnectionError:
                return True
            return False

        wait_until(is_cut_off)


def test_speech_for_clients_that_left_is_not_computed_to_its_end(strict: ServerState) -> None:
    text = json.dumps({"input": "hello there. " * 100, "voice": "a", "response_format": "pcm"})
    for _ in range(3):
        with connected(strict.port) as sock:
            sock.sendall(post("/v1/audio/speech", text.encode()))
            assert b" 200 " in sock.recv(100)
    began = time.monotonic()
    wait_until(lambda: strict.service.waiting == 0)
    assert time.monotonic() - began < 3


def test_bodies_that_are_too_large_are_refused(strict: ServerState) -> None:
    stated = post("/v1/audio/speech", b"", "Content-Length: 9999999999999")
    assert b" 413 " in http(strict, stated.replace(b"Content-Length: 0\r\n", b""))[:20]
    chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    endless = post("/v1/audio/speech", chunk * 8, "Transfer-Encoding: chunked")
    assert b" 413 " in http(strict, endless)[:20]


def multipart(*parts: tuple[str, bytes]) -> bytes:
    body = b"".join(
        f"--b\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + data + b"\r\n"
        for head, data in parts
    )
    kind = "Content-Type: multipart/form-data; boundary=b"
    return post("/v1/audio/transcriptions", body + b"--b--\r\n", kind)


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [('name="file"', b"RIFF")],
        [('name="file"; filename="a.wav"', b"RIFF\xff\xff\xff\xffWAVEfmt " + b"\xff" * 50)],
        [('name="file"; filename="../../etc/passwd"', os.urandom(5000))],
        [('name="file"; filename="a\x00b.mp3"', b"ID3" + b"\xff\xfb" * 500)],
        [(f'name="f{i}"', b"x") for i in range(200)],
        [('name="file"; filename="a"', b"x"), ('name="file"; filename="b"', b"y")],
        [('name="x' + "y" * 60_000 + '"', b"x")],
        [("", b"x")],
    ],
)
def test_uploads_that_are_no_recordings(
    strict: ServerState, parts: list[tuple[str, bytes]]
) -> None:
    answer = http(strict, multipart(*parts))
    assert answer.startswith(b"HTTP/1.1 400 "), answer[:100]
    assert b"Traceback" not in answer
    assert b"site-packages" not in answer


def test_recordings_that_are_too_long_or_of_no_rate(strict: ServerState) -> None:
    def wav(rate: int, seconds: float) -> bytes:
        data = bytes(min(int(seconds * rate), 50_000) * 2)
        form = struct.pack("<IHHIIHH", 16, 1, 1, rate & 0xFFFFFFFF, 2 * rate & 0xFFFFFFFF, 2, 16)
        size = struct.pack("<I", 36 + len(data))
        return b"RIFF" + size + b"WAVEfmt " + form + b"data" + struct.pack("<I", len(data)) + data

    for rate, seconds in ((8000, 6.0), (0, 1.0), (1, 9.0), (2**31 - 1, 1e-5)):
        answer = http(strict, multipart(('name="file"; filename="a.wav"', wav(rate, seconds))))
        assert answer.startswith(b"HTTP/1.1 400 "), (rate, answer[:200])


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x00" * 500,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"GET " + b"/x" * 60_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/9.9\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"POST /v1/audio/speech HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        b"GET /v1/realtime HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Key: short\r\nSec-WebSocket-Version: 13\r\n\r\n",
        b"GET /v1/realtime HTTP/1.1\r\nHost: evil.example\r\nUpgrade: websocket\r\nConnection: "
        b"Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13"
        b"\r\n\r\n",
        b"DELETE /v1/audio/speech HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    ],
)
def test_requests_against_the_rules(strict: ServerState, request_bytes: bytes) -> None:
    answer = http(strict, request_bytes)
    assert not answer or b" 4" in answer[:13], answer[:100]
    assert b"Traceback" not in answer


@pytest.mark.parametrize("seed", range(2))
def test_chat_and_speech_with_wrong_values(strict: ServerState, seed: int) -> None:
    draw = random.Random(seed)
    names = ("messages", "modalities", "audio", "stream", "model", "input", "response_format",
             "speed", "voice", "stream_format", "instructions")  # fmt: skip
    for _ in range(60):
        body = {draw.choice(names): fuzzed(draw, 1) for _ in range(draw.randrange(5))}
        path = draw.choice(("/v1/chat/completions", "/v1/audio/speech"))
        answer = http(strict, post(path, json.dumps(body).encode()))
        assert answer[9:12] in (b"200", b"400"), (body, answer[:300])
        assert b"Traceback" not in answer
