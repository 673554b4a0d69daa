"""What systemd hears of the server's process."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.runtime.server.live_server import server
from tests.runtime.toy_assistant import toy_assistant
from ttt_runtime.server.notify import notify, watchdog_seconds
from ttt_runtime.server.options import ServerOptions


def test_ready_alive_and_stopping_are_told_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(tmp_path / "notify"))
        supervisor.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "90000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        heard = []
        with server(toy_assistant(), ServerOptions(port=0, wyoming_port=None)):
            while heard[-2:] != [b"WATCHDOG=1"] * 2 or b"READY=1" not in heard:
                heard.append(supervisor.recv(100))
        while heard[-1] != b"STOPPING=1":
            heard.append(supervisor.recv(100))
    assert heard.count(b"READY=1") == 1


def test_an_abstract_socket_and_none(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"@ttt-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind("\0" + name[1:])
        supervisor.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        assert notify("READY=1")
        assert supervisor.recv(100) == b"READY=1"
    assert not notify("READY=1")  # nobody listens any more
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert not notify("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [("", "", None), ("2000000", "", 2.0), ("2000000", "1", None), ("soon", "", None)],
)
def test_the_watchdog_is_for_this_process_only(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str, seconds: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert watchdog_seconds() == seconds
