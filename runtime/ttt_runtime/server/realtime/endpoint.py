"""The WebSocket of `/v1/realtime`: one task reads, one writes, one works."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from time import monotonic
from typing import Any, Final

from starlette.websockets import WebSocket, WebSocketDisconnect

from ttt_runtime.server.errors import ApiError
from ttt_runtime.server.ids import new_id
from ttt_runtime.server.json_limits import parse_object
from ttt_runtime.server.limits import TokenBucket
from ttt_runtime.server.realtime.outbox import Outbox
from ttt_runtime.server.realtime.session import RealtimeSession
from ttt_runtime.server.realtime.settings import Settings
from ttt_runtime.server.state import ServerState
from ttt_runtime.server.tasks import end_tasks

logger = logging.getLogger("ttt_runtime.server")
_TRY_AGAIN: Final = 1013
_POLICY: Final = 1008
_BURST_SECONDS: Final = 4.0


async def realtime(websocket: WebSocket) -> None:
    """Serve one client until it leaves, says nothing for too long, or does not read."""
    state: ServerState = websocket.app.state.server
    offered = websocket.scope.get("subprotocols", ())
    await websocket.accept(subprotocol="realtime" if "realtime" in offered else None)
    if state.sessions >= state.options.limits.sessions:
        state.metrics.refused.add(reason="sessions")
        await websocket.close(_TRY_AGAIN, "all sessions of this server are taken")
        return
    state.sessions += 1
    try:
        await _serve(websocket, state)
    finally:
        state.sessions -= 1


async def _serve(websocket: WebSocket, state: ServerState) -> None:
    outbox = Outbox(state.options.limits.unsent_bytes)
    model = state.model_name
    settings = Settings.default(
        new_id("sess"),
        model,
        only_transcribes=websocket.query_params.get("intent") == "transcription",
    )
    session = RealtimeSession(state.service, settings, outbox, state.options.limits)
    session.greet()
    heard = asyncio.Event()
    tasks: list[asyncio.Task[Any]] = [
        asyncio.create_task(work, name=name)
        for name, work in (
            ("realtime-read", _read(websocket, session, outbox, state, heard)),
            ("realtime-idle", _idle(heard, state.options.limits.idle_seconds)),
            ("realtime-write", _write(websocket, outbox)),
            ("realtime-work", session.run()),
            ("realtime-limit", outbox.overflow()),
        )
    ]
    farewell = ""
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            error = task.exception()
            if error is not None and not isinstance(error, WebSocketDisconnect):
                state.metrics.defects.add()
                logger.error("a Realtime session failed", exc_info=error)
            if error is None and isinstance(reason := task.result(), str):
                farewell = reason
    finally:
        await end_tasks(tasks)
    if outbox.overflowed:
        state.metrics.refused.add(reason="slow")
        return  # it would not read a farewell either
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):
        await websocket.close(_POLICY, farewell)


async def _idle(heard: asyncio.Event, seconds: float) -> str:
    """Wait until no message came for so long; return that as a reason."""
    while True:
        await asyncio.sleep(seconds)
        if not heard.is_set():
            return "no message for too long"
        heard.clear()


async def _read(
    websocket: WebSocket,
    session: RealtimeSession,
    outbox: Outbox,
    state: ServerState,
    heard: asyncio.Event,
) -> str:
    """Hand on the client's messages; return why no more are read."""
    limits = state.options.limits
    per_second = limits.messages_per_second
    bucket = TokenBucket(per_second, per_second * _BURST_SECONDS)
    flood_began: float | None = None
    while True:
        # A flood is read no faster than agreed; the rest waits in the connection's buffers. It
        # would outlive its client there, and the session with it: so a flood has an end.
        if bucket.is_rested:
            flood_began = None
        if (wait_seconds := bucket.wait_seconds()) > 0:
            flood_began = monotonic() if flood_began is None else flood_began
            if monotonic() - flood_began > limits.flood_seconds:
                state.metrics.refused.add(reason="flood")
                return f"more than {per_second:g} messages a second"
            await asyncio.sleep(wait_seconds)
        message = await websocket.receive()
        heard.set()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        text = message.get("text")
        try:
            event = parse_object(text if text is not None else message.get("bytes", b""))
        except ApiError as error:
            outbox.error(error)
            continue
        await session.receive(event)


async def _write(websocket: WebSocket, outbox: Outbox) -> None:
    while (text := await outbox.take()) is not None:
        await websocket.send_text(text)
