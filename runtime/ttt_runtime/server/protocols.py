"""uvicorn's protocols with an end to patience: clients that send or read too slowly are cut off.

uvicorn bounds how long an idle connection is kept, not how long the head of a request may take, nor
how long a closing connection may refuse to read what is left.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from ttt_runtime.server.options import Limits

CLOSE_SECONDS: Final = 5.0
MOST_UNREAD_BYTES: Final = 1 << 20


def http_protocol(limits: Limits) -> type[asyncio.Protocol]:
    """Return the HTTP protocol of a server with these limits."""

    class GuardedHttp(H11Protocol):
        """HTTP/1.1 whose heads come, and whose answers are read, in time."""

        _head_timer: asyncio.TimerHandle | None = None
        _unread_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.abort()
            else:
                self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            self._stop_unread_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before or self.transport.get_protocol() is not self:
                self._stop_timer()
            elif self.cycle is None or self.cycle.response_complete:
                self._await_head()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._await_reading()

        def resume_writing(self) -> None:
            self._stop_unread_timer()
            super().resume_writing()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.transport.is_closing():
                self._await_reading()

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._await_reading()

        def send_400_response(self, msg: str) -> None:
            """Refuse what is no HTTP; an answer that is on its way ends without another."""
            cycle = self.cycle
            if cycle is None or cycle.response_complete:
                super().send_400_response(msg)
                return
            begun = cycle.response_started
            cycle.disconnected = True
            cycle.message_event.set()
            if begun:
                self.transport.abort()
            else:
                super().send_400_response(msg)

        def _await_reading(self) -> None:
            if self._unread_timer is None:
                self._unread_timer = self.loop.call_later(
                    limits.unread_seconds, self.transport.abort
                )

        def _stop_unread_timer(self) -> None:
            if self._unread_timer is not None:
                self._unread_timer.cancel()
                self._unread_timer = None

        def _await_head(self) -> None:
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(limits.header_seconds, self._too_late)

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

    def handle_ping(self) -> None:
        """Answer a ping, unless the answers to those before are not read."""
        super().handle_ping()
        if self.transport.get_write_buffer_size() > MOST_UNREAD_BYTES:
            self.transport.abort()

    def keepalive_timeout(self) -> None:
        """Give a client up that answers no ping."""
        super().keepalive_timeout()
        self.transport.abort()
