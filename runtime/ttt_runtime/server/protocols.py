"""uvicorn's protocols with an end to patience: clients that send or read too slowly are cut off.

uvicorn bounds how long an idle connection is kept, not how long the head of a request may take, nor
how long a closing connection may refuse to read what is left.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

CLOSE_SECONDS: Final = 5.0


def http_protocol(header_seconds: float, most_connections: int) -> type[asyncio.Protocol]:
    """Return the HTTP protocol of a server.

    Args:
        header_seconds: time from a connection, or a request's first byte, to the head's last.
        most_connections: more are closed as they come.
    """

    class GuardedHttp(H11Protocol):
        """HTTP/1.1 whose heads come in time."""

        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > most_connections:
                transport.abort()
            else:
                self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before or self.transport.get_protocol() is not self:
                self._stop_timer()
            elif self.cycle is None or self.cycle.response_complete:
                self._await_head()

        def _await_head(self) -> None:
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(header_seconds, self._too_late)

        def _stop_timer(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _too_late(self) -> None:
            self._head_timer = None
            if self.transport.get_protocol() is self and not self.transport.is_closing():
                self.transport.abort()

    return GuardedHttp


class GuardedWebSocket(WebSocketsSansIOProtocol):
    """A WebSocket that is gone a moment after its end, whether its client reads or not."""

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """Close what the application left."""
        super().on_task_complete(task)
        self.loop.call_later(CLOSE_SECONDS, self.transport.abort)

    def keepalive_timeout(self) -> None:
        """Give a client up that answers no ping."""
        super().keepalive_timeout()
        self.transport.abort()
