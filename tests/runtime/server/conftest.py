"""One server with the shipped bundle for all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.runtime.server.hostile import LIMITS, TONE, wait_until
from tests.runtime.server.live_server import BUNDLE, RealtimeClient, server
from tests.runtime.toy_assistant import toy_assistant
from ttt_runtime.dialogue.assistant import Assistant
from ttt_runtime.server.options import ServerOptions
from ttt_runtime.server.state import ServerState


@pytest.fixture(scope="session")
def shipped_assistant() -> Assistant:
    return Assistant.from_bundle(BUNDLE, threads=1, interleaved=True)


@pytest.fixture(scope="module")
def shipped(shipped_assistant: Assistant) -> Iterator[ServerState]:
    with server(shipped_assistant) as state:
        yield state


@pytest.fixture(scope="module")
def strict() -> Iterator[ServerState]:
    """A server with narrow limits, for clients that break the rules."""
    with server(toy_assistant(37), ServerOptions(port=0, wyoming_port=0, limits=LIMITS)) as state:
        yield state


@pytest.fixture
def nobody_is_disturbed(strict: ServerState) -> Iterator[None]:
    """After each test: a plain client is served, no slot is lost, no defect was met."""
    yield
    wait_until(lambda: strict.sessions == 0 and strict.wyoming_connections == 0)
    with RealtimeClient(strict) as client:
        client.manual()
        client.ask(TONE)
        assert client.until("response.done", 10)["response"]["status"] == "completed"
    assert strict.metrics.defects.value() == 0
