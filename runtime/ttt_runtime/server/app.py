"""The HTTP application: routes behind the gate."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from ttt_ref.errors import TttError
from ttt_runtime.server.errors import ApiError, as_api_error
from ttt_runtime.server.middleware import Gate, error_response
from ttt_runtime.server.realtime.endpoint import realtime
from ttt_runtime.server.routes import chat, health, speech, transcriptions
from ttt_runtime.server.state import ServerState

PAGE: Final = Path(__file__).parent / "page"


def build_app(state: ServerState) -> Gate:
    """Return the application of one server."""
    routes = [
        Route("/", _file("index.html")),
        Route("/profile", _file("profile.html")),
        Mount("/page", StaticFiles(directory=PAGE)),
        Route("/health", health.health),
        Route("/health/ready", health.ready),
        Route("/metrics", health.metrics),
        Route("/v1/models", health.models),
        Route("/v1/models/{name:path}", health.model),
        Route("/v1/audio/speech", speech.speech, methods=["POST"]),
        Route("/v1/audio/transcriptions", transcriptions.transcriptions, methods=["POST"]),
        Route("/v1/chat/completions", chat.chat, methods=["POST"]),
        Route("/v1/profile", health.profile),
        WebSocketRoute("/v1/realtime", realtime),
    ]
    handlers: dict[Any, Any] = {
        HTTPException: _http_error,
        TttError: _own_error,
        asyncio.TimeoutError: _too_slow,
        Exception: _own_error,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.state.server = state
    return Gate(app, state)


def _file(name: str) -> Any:
    async def page(request: Request) -> Response:
        return FileResponse(PAGE / name)

    return page


async def _own_error(request: Request, error: Exception) -> Response:
    """Tell an error of ours as it is, and of a defect (which is logged) no details."""
    return error_response(as_api_error(error))


async def _too_slow(request: Request, error: Exception) -> Response:
    return error_response(ApiError("the body of the request comes too slowly", status=408))


async def _http_error(request: Request, error: HTTPException) -> Response:
    """Tell the framework's own errors (no such path, a wrong method) in the API's form."""
    message = f"{request.method} {request.url.path!r:.120}: {error.detail}".replace("\n", " ")
    return error_response(ApiError(message, status=error.status_code))
