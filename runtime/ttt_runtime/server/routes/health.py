"""What supervisors and monitors ask."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ttt_runtime.server.metrics import CONTENT_TYPE
from ttt_runtime.server.state import ServerState

# One step of the engine takes milliseconds to a second; longer than this nothing will come.
STUCK_SECONDS: Final = 60.0


async def health(request: Request) -> Response:
    """Tell that the process answers and its engine goes on."""
    state: ServerState = request.app.state.server
    stuck = state.service.stuck_seconds
    if stuck > STUCK_SECONDS:
        return JSONResponse({"status": "stuck", "step_seconds": round(stuck, 1)}, 503)
    return JSONResponse({"status": "ok", "model": state.model_name})


async def ready(request: Request) -> Response:
    """Tell whether the warm-up answer was computed: from then on answers are fast."""
    state: ServerState = request.app.state.server
    if not state.ready:
        return JSONResponse({"status": "warming up"}, 503, {"retry-after": "1"})
    return JSONResponse({"status": "ready", "model": state.model_name})


async def metrics(request: Request) -> Response:
    """Give everything that is counted to Prometheus."""
    state: ServerState = request.app.state.server
    return PlainTextResponse(state.metrics.text(), media_type=CONTENT_TYPE)


async def models(request: Request) -> Response:
    """List the one model."""
    state: ServerState = request.app.state.server
    return JSONResponse({"object": "list", "data": [_model(state)]})


async def model(request: Request) -> Response:
    """Describe the one model, whatever it is called: clients ask by names of their own."""
    state: ServerState = request.app.state.server
    return JSONResponse(_model(state))


def _model(state: ServerState) -> dict[str, object]:
    prompts = state.service.assistant.prompts.prompts
    return {
        "id": state.model_name,
        "object": "model",
        "created": state.created,
        "owned_by": "ttt-edge",
        "tasks": sorted(prompts.system),
    }


async def profile(request: Request) -> Response:
    """Give the running profile: what turns took lately, and what the machine is doing."""
    state: ServerState = request.app.state.server
    return JSONResponse(state.profile())
