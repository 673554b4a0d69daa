"""Two replicas behind HAProxy with packaging/replicas/haproxy.cfg, and what happens when one ends.

    python -m tests.clients.replicas

Conversations over WebSocket, HTTP with and without a cookie, Wyoming; then one replica is killed in
the middle of a conversation: its client loses the connection, connects again and is answered.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import soundfile
import soxr
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = ROOT / "packaging" / "replicas" / "haproxy.cfg"
PROGRAM = "from ttt_runtime.cli.server import main; main()"


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [place.getsockname()[1] for place in sockets]


def until_open(port: int) -> None:
    for _ in range(300):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.1)
    raise SystemExit(f"nothing listens on port {port}")


@contextlib.contextmanager
def replicas() -> Iterator[tuple[int, int, dict[str, subprocess.Popen[bytes]]]]:
    """Yield the proxy's port, its Wyoming port, and the replicas by name."""
    ports = dict(zip((8017, 8018, 8019, 10300, 10301, 10302), free_ports(6), strict=True))
    text = re.sub(
        r"(?<=127\.0\.0\.1:)\d+", lambda m: str(ports[int(m[0])]), CONFIGURATION.read_text()
    )
    program = shutil.which("haproxy") or "/usr/sbin/haproxy"
    paths = [str(ROOT / name) for name in ("export", "runtime", "quant", ".")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "haproxy.cfg"
        file.write_text(text)
        servers = {
            name: subprocess.Popen(
                [sys.executable, "-c", PROGRAM, "--threads", "1", "--port", str(ports[port]),
                 "--wyoming-port", str(ports[port + 2283])],
                env=env, stdout=subprocess.DEVNULL,
            )
            for name, port in (("a", 8018), ("b", 8019))
        }  # fmt: skip
        for port in (8018, 8019):
            until_open(ports[port])
        proxy = subprocess.Popen([program, "-db", "-q", "-f", str(file)])
        try:
            until_open(ports[8017])
            time.sleep(5)  # two checks of readiness
            yield ports[8017], ports[10300], servers
        finally:
            for process in (proxy, *servers.values()):
                process.terminate()
                process.wait(20)


def served(port: int) -> dict[str, int]:
    """Return how many connections each replica has now, as the proxy counts them."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/replicas;csv")
    rows = connection.getresponse().read().decode().splitlines()
    names = rows[0].lstrip("# ").split(",")
    found = [dict(zip(names, row.split(","), strict=False)) for row in rows[1:]]
    return {r["svname"]: int(r["scur"]) for r in found
            if r["pxname"] == "servers" and r["svname"] in "ab"}  # fmt: skip


def event(socket_: ClientConnection, kind: str) -> dict[str, Any]:
    while True:
        found: dict[str, Any] = json.loads(socket_.recv(30))
        if found["type"] == kind:
            return found


def ask(socket_: ClientConnection, audio: str) -> str:
    detection = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
    socket_.send(json.dumps({"type": "session.update", "session": detection}))
    socket_.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
    for kind in ("input_audio_buffer.commit", "response.create"):
        socket_.send(json.dumps({"type": kind}))
    done = event(socket_, "response.done")["response"]
    return str(done["output"][0]["content"][0]["transcript"])


def http_replica(port: int, cookie: str | None) -> tuple[int, str | None]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    body = json.dumps({"input": "good morning", "response_format": "pcm"})
    headers = {"cookie": cookie} if cookie else {}
    connection.request("POST", "/v1/audio/speech", body, headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status, (answer.getheader("set-cookie") or "").split(";")[0] or None


def main() -> None:
    """Try all of it."""
    sound, rate = soundfile.read(ROOT / "samples" / "question.wav", dtype="float32")
    pcm = (soxr.resample(sound, rate, 24000) * 32767).astype("<i2").tobytes()
    audio = base64.b64encode(pcm).decode()
    with replicas() as (port, wyoming_port, servers), contextlib.ExitStack() as stack:
        url = f"ws://127.0.0.1:{port}/v1/realtime"
        clients = [stack.enter_context(connect(url, max_size=None)) for _ in range(4)]
        assert [ask(client, audio) for client in clients] == 4 * ["the capital of france is paris"]
        assert served(port) == {"a": 2, "b": 2}, served(port)
        status, cookie = http_replica(port, None)
        assert (status, bool(cookie)) == (200, True)
        assert [http_replica(port, cookie) for _ in range(4)] == 4 * [(200, None)]
        with socket.create_connection(("127.0.0.1", wyoming_port), 10) as sock:
            sock.sendall(b'{"type": "describe"}\n')
            told = b""
            while b"ttt-edge" not in told:
                piece = sock.recv(65536)
                assert piece, told
                told += piece
        servers["a"].kill()
        servers["a"].wait()
        lost = 0
        for number, client in enumerate(clients):
            try:
                assert ask(client, audio)
            except (ConnectionClosed, OSError):
                lost += 1
                clients[number] = stack.enter_context(connect(url, max_size=None))
                assert ask(clients[number], audio) == "the capital of france is paris"
        assert lost == 2, lost
        assert http_replica(port, "TTT_REPLICA=a")[0] == 200
    print("replicas: 4 conversations on 2 replicas, cookie kept; one killed: its 2 connect again")


if __name__ == "__main__":
    main()
