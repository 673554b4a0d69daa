"""Events on their way to one client. Nobody waits for a client that does not read."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import Any

from ttt_runtime.server.errors import ApiError
from ttt_runtime.server.ids import new_id


class Outbox:
    """A queue of events with a limit in bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._waiting: deque[str] = deque()
        self._changed = asyncio.Event()
        self._too_much = asyncio.Event()
        self._closed = False

    @property
    def overflowed(self) -> bool:
        """True once the client read too slowly; its connection is to be closed."""
        return self._too_much.is_set()

    async def overflow(self) -> None:
        """Wait until then."""
        await self._too_much.wait()

    def emit(self, kind: str, **fields: Any) -> None:
        """Queue an event."""
        if self.overflowed or self._closed:
            return
        text = json.dumps({"type": kind, "event_id": new_id("event"), **fields})
        self._bytes += len(text)
        if self._bytes > self._most_bytes:
            self._too_much.set()
        self._waiting.append(text)
        self._changed.set()

    def error(self, error: ApiError, event_id: Any = None) -> None:
        """Queue an error; `event_id` names the client's event that caused it."""
        known = event_id if isinstance(event_id, str) else None
        self.emit("error", error={**error.to_dict(), "event_id": known})

    def close(self) -> None:
        """Take no more events; `take` ends when all that wait are gone."""
        self._closed = True
        self._changed.set()

    async def take(self) -> str | None:
        """Return the next event as text; None at the end, and when the client is too slow."""
        while not self.overflowed:
            if self._waiting:
                text = self._waiting.popleft()
                self._bytes -= len(text)
                return text
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        return None
