"""Realtime clients that break the rules: bounded, and nobody else is disturbed."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
import time

import pytest
from websockets.exceptions import ConnectionClosed

from tests.runtime.server.hostile import (
    FIELDS,
    LIMITS,
    TONE,
    frame,
    fuzzed,
    rest,
    send_all,
    wait_until,
    websocket,
)
from tests.runtime.server.live_server import RealtimeClient
from ttt_runtime.server.state import ServerState

pytestmark = pytest.mark.usefixtures("nobody_is_disturbed")


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 1000,
        frame(b"{}", masked=False),
        frame(b"\xff\xfe\xfd"),
        frame(b"{}", opcode=3),
        frame(b"x", opcode=0),
        frame(b"x" * 126, opcode=9),
        frame(b"{", fin=False) + frame(b"{}"),
        b"\x81\xff" + struct.pack("!Q", 1 << 62),
        frame(b"x" * (300 << 10)),
        frame(b"x" * 1000, fin=False) + frame(b"x" * 1000, 0, fin=False) * 300,
        frame(struct.pack("!H", 7), opcode=8),
        frame(b"{}")[:-1],
        b"",
    ],
)
def test_frames_against_the_rules_end_their_own_connection(
    strict: ServerState, data: bytes
) -> None:
    with websocket(strict) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        assert b"Traceback" not in rest(sock)


def test_random_frames(strict: ServerState) -> None:
    draw = random.Random(5)
    for _ in range(12):
        wait_until(lambda: strict.sessions < LIMITS.sessions)
        with websocket(strict) as sock, contextlib.suppress(ConnectionError):
            for _ in range(draw.randrange(1, 8)):
                data = draw.randbytes(draw.randrange(200))
                sock.sendall(data if draw.random() < 0.3 else frame(data, draw.randrange(16)))


def test_pings_that_nobody_reads_the_answers_of_fill_no_memory(strict: ServerState) -> None:
    with websocket(strict) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        data = frame(b"p" * 125, opcode=9) * 500
        with pytest.raises((ConnectionError, TimeoutError)):
            send_all(sock, data, 400)


_TYPES = (
    "session.update", "input_audio_buffer.append", "input_audio_buffer.commit",
    "input_audio_buffer.clear", "response.create", "response.cancel", "conversation.item.create",
    "conversation.item.retrieve", "conversation.item.delete", "conversation.item.truncate",
    "output_audio_buffer.clear", "telepathy",
)  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_events_of_the_right_names_with_wrong_values(strict: ServerState, seed: int) -> None:
    draw = random.Random(seed)
    with RealtimeClient(strict) as client:
        for _ in range(250):
            fields = {draw.choice(FIELDS): fuzzed(draw) for _ in range(draw.randrange(4))}
            client.send(draw.choice(_TYPES), **{k: v for k, v in fields.items() if k != "type"})
        client.send("session.update", event_id="last", session=5)
        while client.until("error")["error"]["event_id"] != "last":
            pass
        assert "Traceback" not in json.dumps(client.events)
        assert client.socket.close_code is None


@pytest.mark.parametrize("count", [2_000, 60_000])
def test_a_flood_of_tiny_events_does_not_outlive_its_client(
    strict: ServerState, count: int
) -> None:
    """What waited in the connection was read at the agreed rate for minutes after its client was
    gone, and its session was taken as long: all sessions of the server were."""
    flood = frame(b"{}") * count
    sockets = [websocket(strict) for _ in range(LIMITS.sessions)]
    for sock in sockets:
        sock.settimeout(0.3)
        with contextlib.suppress(TimeoutError, ConnectionError):
            sock.sendall(flood)
        sock.close()
    wait_until(lambda: strict.sessions == 0)


def test_a_flood_of_commands_with_others_in_between(strict: ServerState) -> None:
    command = frame(b'{"type": "conversation.item.retrieve", "item_id": "x"}')
    with websocket(strict) as flooder, RealtimeClient(strict) as client:
        client.manual()
        flooder.sendall(command * 1500)
        began = time.monotonic()
        client.ask(TONE)
        assert client.until("response.done")["response"]["status"] == "completed"
        assert time.monotonic() - began < 5.0


def test_items_without_end_are_bounded_and_voice_goes_on(strict: ServerState) -> None:
    with RealtimeClient(strict) as client:
        client.manual()
        text = [{"type": "input_text", "text": "a"}]
        for _ in range(515):
            item = {"type": "message", "role": "user", "content": text}
            client.send("conversation.item.create", item=item)
        assert "delete" in client.until("error")["error"]["message"]
        client.ask(TONE)  # the oldest make room for what is said
        assert client.until("response.done")["response"]["status"] == "completed"
        assert "conversation.item.deleted" in client.types()


def test_sessions_beyond_the_limit_are_told_so(strict: ServerState) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(LIMITS.sessions):
            stack.enter_context(RealtimeClient(strict)).until("session.created")
        with RealtimeClient(strict) as late, pytest.raises(ConnectionClosed) as caught:
            late.next()
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, "taken" in caught.value.rcvd.reason) == (1013, True)


def test_who_does_not_read_is_left_and_others_are_answered(strict: ServerState) -> None:
    with websocket(strict) as deaf, RealtimeClient(strict) as client:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(1)
        event = json.dumps({"type": "session.update", "session": {"x": "y" * 30_000}}).encode()
        with pytest.raises((ConnectionError, TimeoutError)):
            send_all(deaf, frame(event), 2000)
        client.manual()
        client.ask(TONE)
        assert client.until("response.done")["response"]["status"] == "completed"


@pytest.mark.parametrize("at", ["committed", "created", "sounding"])
def test_clients_that_vanish_in_the_middle_of_an_answer(strict: ServerState, at: str) -> None:
    for _ in range(3):
        wait_until(lambda: strict.sessions < LIMITS.sessions)
        client = RealtimeClient(strict)
        client.manual()
        client.ask(TONE)
        if at == "created":
            client.until("response.created")
        elif at == "sounding":
            client.until("response.output_audio.delta")
        sock = client.socket.socket
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()  # with a reset, without a word
    wait_until(lambda: strict.service.waiting == 0)
