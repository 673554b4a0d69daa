"""What every request passes before a route sees it: guard, limits, and errors in the API's form."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from time import monotonic
from typing import Any, Final

from starlette.responses import JSONResponse

from ttt_runtime.server.errors import ApiError, as_api_error
from ttt_runtime.server.state import ServerState

logger = logging.getLogger("ttt_runtime.server")
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]

# A whole body may take so many times as long as one piece of it.
_BODY_PATIENCE: Final = 12
# The page needs nothing from elsewhere, and nobody may frame it.
PAGE_HEADERS: Final = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        b"connect-src 'self' ws: wss:; worker-src 'self'; frame-ancestors 'none'; "
        b"base-uri 'none'; form-action 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class Gate:
    """The outermost application."""

    def __init__(self, app: App, state: ServerState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Let the request pass, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except ApiError as error:
            self._state.metrics.refused.add(reason=error.code or error.kind)
            await _refuse(scope, receive, send, error)
            return
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        await self._http(scope, receive, send)

    def _check(self, scope: Any) -> None:
        headers = _headers(scope)
        self._state.guard.check(scope["path"], headers, scope.get("subprotocols", ()))
        client = (scope.get("client") or ("unknown", 0))[0]
        if scope.get("method") != "GET" and not self._state.requests.allows(client):
            raise ApiError("too many requests; wait a second", status=429, code="rate_limited")
        limit = self._state.options.limits.upload_bytes
        length = headers.get("content-length", "")
        if length.isdigit() and int(length[:20]) > limit:
            raise _too_large(limit)

    async def _http(self, scope: Any, receive: Receive, send: Send) -> None:
        limits = self._state.options.limits
        seen, started, has_body = 0, False, False
        ends_at = monotonic() + _BODY_PATIENCE * limits.header_seconds

        async def bounded_receive() -> Message:
            nonlocal seen, has_body
            patience = None
            if not has_body:
                patience = max(min(limits.header_seconds, ends_at - monotonic()), 0.0)
            message = await asyncio.wait_for(receive(), patience)
            seen += len(message.get("body", b""))
            has_body = not message.get("more_body", False)
            if seen > limits.upload_bytes:
                raise _too_large(limits.upload_bytes)
            return message

        async def marked_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), *PAGE_HEADERS]
            await send(message)

        try:
            await self._app(scope, bounded_receive, marked_send)
        except Exception as error:
            told = as_api_error(error)
            if told.status == 500:
                self._state.metrics.defects.add()
                logger.error("a request failed: %s", scope["path"], exc_info=error)
            if not started:
                await _refuse(scope, receive, send, told)


def _too_large(limit: int) -> ApiError:
    return ApiError(f"the body is larger than {limit >> 20} MiB", status=413, code="too_large")


def _headers(scope: Any) -> Mapping[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def error_response(error: ApiError) -> JSONResponse:
    """Return an error in the API's form."""
    headers = {"retry-after": "1"} if error.status in (429, 503) else {}
    if error.status in (408, 413):
        headers["connection"] = "close"  # nobody waits for the rest of the body
    return JSONResponse({"error": error.to_dict()}, error.status, headers)


async def _refuse(scope: Any, receive: Receive, send: Send, error: ApiError) -> None:
    response = error_response(error)
    if scope["type"] == "http":
        await response(scope, receive, send)
        return
    await send(
        {
            "type": "websocket.http.response.start",
            "status": error.status,
            "headers": [*response.raw_headers],
        }
    )
    await send({"type": "websocket.http.response.body", "body": response.body})
