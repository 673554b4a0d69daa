"""Wyoming's frames from strangers: a line of JSON, then data and payload of stated lengths.

The protocol's own library reads whatever length a client states; this reads within limits.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from wyoming.event import Event

from ttt_runtime.server.errors import ApiError
from ttt_runtime.server.json_limits import parse_object

LONGEST_LINE: Final = 64 * 1024
LONGEST_DATA: Final = 256 * 1024
LONGEST_PAYLOAD: Final = 1 << 20


async def read_event(
    reader: asyncio.StreamReader, idle_seconds: float, event_seconds: float
) -> Event | None:
    """Return the next event; None at the end of the connection.

    Args:
        reader: the connection.
        idle_seconds: how long a client may say nothing.
        event_seconds: how long an event may take from its first byte to its last.

    Raises:
        ApiError: what came is no event, or longer than any client has reason for.
        TimeoutError: it took too long.
    """
    first = await asyncio.wait_for(reader.read(1), idle_seconds)
    if not first:
        return None
    return await asyncio.wait_for(_event(reader, first), event_seconds)


async def _event(reader: asyncio.StreamReader, first: bytes) -> Event | None:
    try:
        line = first if first == b"\n" else first + await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        if (first + error.partial).strip():
            raise ApiError("the connection ended within an event") from None
        return None
    except asyncio.LimitOverrunError:
        raise ApiError(f"an event's first line is longer than {LONGEST_LINE} bytes") from None
    head = parse_object(line)
    kind = head.get("type")
    if not isinstance(kind, str):
        raise ApiError("an event without type")
    data = head.get("data") or {}
    if not isinstance(data, dict):
        raise ApiError("an event's data must be an object")
    try:
        if size := _length(head, "data_length", LONGEST_DATA):
            data |= parse_object(await reader.readexactly(size))
        size = _length(head, "payload_length", LONGEST_PAYLOAD)
        payload = await reader.readexactly(size) if size else None
    except asyncio.IncompleteReadError:
        raise ApiError("the connection ended within an event") from None
    return Event(kind, data, payload)


def _length(head: dict[str, Any], name: str, most: int) -> int:
    value = head.get(name) or 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ApiError(f"an event's {name} is {value!r:.60}; expected 0 .. {most}")
    return value
