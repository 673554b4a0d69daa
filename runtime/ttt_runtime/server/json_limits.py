"""JSON from strangers: parsed within limits, refused in one line."""

from __future__ import annotations

import json
from typing import Any, Final

from ttt_runtime.server.errors import ApiError

# Brackets and commas: each may become an object of its own in memory.
_MOST_VALUES: Final = 20_000


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Return the object in a message.

    Raises:
        ApiError: not JSON, no object, or one with more values than any client has reason for.
    """
    data = text.encode() if isinstance(text, str) else text
    if sum(data.count(mark) for mark in (b",", b"[", b"{")) > _MOST_VALUES:
        raise ApiError(f"the message holds more than {_MOST_VALUES} values", code="invalid_json")
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise ApiError("the message is not JSON that can be read", code="invalid_json") from None
    if not isinstance(value, dict):
        raise ApiError("the message is no JSON object", code="invalid_json")
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
