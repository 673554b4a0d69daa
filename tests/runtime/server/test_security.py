"""Who gets in: Host, Origin, token; as rules, and through a real server."""

from __future__ import annotations

import json
from http.client import HTTPConnection

import pytest
from websockets.exceptions import InvalidStatus

from tests.runtime.server.live_server import RealtimeClient, server
from tests.runtime.toy_assistant import toy_assistant
from ttt_ref.errors import ConfigError
from ttt_runtime.server.errors import ApiError
from ttt_runtime.server.options import ServerOptions
from ttt_runtime.server.security import Guard, is_loopback
from ttt_runtime.server.state import ServerState


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True),
     ("0.0.0.0", False), ("192.168.1.2", False), ("::", False), ("evil.example", False)],
)  # fmt: skip
def test_what_counts_as_this_machine(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_other_addresses_need_a_token() -> None:
    with pytest.raises(ConfigError, match="give a token"):
        Guard("0.0.0.0")
    with pytest.raises(ConfigError, match="empty"):
        Guard("127.0.0.1", " ")
    Guard("0.0.0.0", "secret")


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8017", "localhost", "[::1]:8017", "192.168.1.7:8017", "voice.home:1"]
)
def test_hosts_that_are_let_in(host: str) -> None:
    Guard(hosts=("voice.home",)).check("/v1/models", {"host": host})


@pytest.mark.parametrize("host", ["evil.example", "", "127.0.0.1.evil.example", "[", "a" * 5000])
def test_a_name_that_was_made_to_point_here_is_refused(host: str) -> None:
    with pytest.raises(ApiError) as caught:
        Guard().check("/v1/models", {"host": host})
    assert caught.value.status == 403


@pytest.mark.parametrize(
    ("origin", "passes"),
    [("http://127.0.0.1:8017", True), ("https://127.0.0.1:8017", True),
     ("http://127.0.0.1:9999", False), ("http://evil.example", False), ("null", False),
     ("file://", False), ("http://[", False), ("https://friend.example", True)],
)  # fmt: skip
def test_pages_from_elsewhere_are_refused(origin: str, passes: bool) -> None:
    guard = Guard(origins=("https://friend.example",))
    headers = {"host": "127.0.0.1:8017", "origin": origin}
    if passes:
        guard.check("/v1/realtime", headers)
        return
    with pytest.raises(ApiError) as caught:
        guard.check("/v1/realtime", headers)
    assert caught.value.code == "origin_not_allowed"


def test_a_token_opens_everything_but_the_page_and_health() -> None:
    guard = Guard("0.0.0.0", "secret")
    host = {"host": "10.0.0.1"}
    for path in ("/", "/profile", "/page/app.js", "/health", "/health/ready"):
        guard.check(path, host)
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}):
        with pytest.raises(ApiError) as caught:
            guard.check("/v1/models", host | headers)
        assert caught.value.status == 401
    guard.check("/v1/models", host | {"authorization": "Bearer secret"})
    guard.check("/v1/realtime", host, ["realtime", "openai-insecure-api-key.secret"])
    with pytest.raises(ApiError):
        guard.check("/v1/realtime", host, ["openai-insecure-api-key.sec"])


@pytest.fixture(scope="module")
def guarded():
    options = ServerOptions(port=0, wyoming_port=None, token="secret")
    with server(toy_assistant(), options) as state:
        yield state


def get(state: ServerState, path: str, **headers: str) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", state.port, timeout=10)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    return response.status, response.read()


def test_a_server_with_a_token(guarded: ServerState) -> None:
    assert get(guarded, "/health")[0] == 200
    assert get(guarded, "/")[0] == 200
    status, data = get(guarded, "/v1/models")
    assert (status, json.loads(data)["error"]["code"]) == (401, "invalid_api_key")
    assert get(guarded, "/metrics")[0] == 401
    assert get(guarded, "/v1/models", authorization="Bearer secret")[0] == 200
    with pytest.raises(InvalidStatus) as caught:
        RealtimeClient(guarded)
    assert caught.value.response.status_code == 401
    protocols = ["realtime", "openai-insecure-api-key.secret"]
    with RealtimeClient(guarded, subprotocols=protocols) as client:
        assert client.socket.subprotocol == "realtime"
        client.until("session.created")


def test_a_foreign_page_reaches_neither_http_nor_the_socket(guarded: ServerState) -> None:
    status, _ = get(guarded, "/v1/models", origin="http://evil.example")
    assert status == 403
    with pytest.raises(InvalidStatus) as caught:
        RealtimeClient(
            guarded,
            origin="http://evil.example",
            additional_headers={"authorization": "Bearer secret"},
        )
    assert caught.value.response.status_code == 403


def test_the_page_asks_for_nothing_from_outside(guarded: ServerState) -> None:
    for path in ("/", "/profile", "/page/app.js", "/page/style.css", "/page/worklets.js"):
        status, data = get(guarded, path)
        assert status == 200
        text = data.decode().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text
        assert "https://" not in text
    assert get(guarded, "/page/../app.py")[0] == 404
    assert get(guarded, "/page/%2e%2e/app.py")[0] == 404
