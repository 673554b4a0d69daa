"""One server with the shipped bundle for all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.runtime.server.live_server import BUNDLE, server
from ttt_runtime.dialogue.assistant import Assistant
from ttt_runtime.server.state import ServerState


@pytest.fixture(scope="session")
def shipped_assistant() -> Assistant:
    return Assistant.from_bundle(BUNDLE, threads=1, interleaved=True)


@pytest.fixture(scope="module")
def shipped(shipped_assistant: Assistant) -> Iterator[ServerState]:
    with server(shipped_assistant) as state:
        yield state
