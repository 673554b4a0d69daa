"""The WebSocket of `/v1/realtime`: one task reads, one writes, one works."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from starlette.websockets import WebSocket, WebSocketDisconnect

from ttt_runtime.server.errors import ApiError
from ttt_runtime.server.ids import new_id
from ttt_runtime.server.json_limits import parse_object
from ttt_runtime.server.limits import TokenBucket
from ttt_runtime.server.realtime.outbox import Outbox
from ttt_runtime.server.realtime.session import RealtimeSession
from ttt_runtime.server.realtime.settings import Settings
from ttt_runtime.server.state import ServerState

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
    tasks = [
        asyncio.create_task(work, name=name)
        for name, work in (
            ("realtime-read", _read(websocket, session, outbox, state)),
            ("realtime-write", _write(websocket, outbox)),
            ("realtime-work", session.run()),
            ("realtime-limit", outbox.overflow()),
        )
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            error = task.exception()
            if error is not None and not isinstance(error, WebSocketDisconnect):
                state.metrics.defects.add()
                logger.error("a Realtime session failed", exc_info=error)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if outbox.overflowed:
        state.metrics.refused.add(reason="slow")
        return  # it would not read a farewell either
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):
        await websocket.close(_POLICY, "no message for too long")


async def _read(
    websocket: WebSocket, session: RealtimeSession, outbox: Outbox, state: ServerState
) -> None:
    limits = state.options.limits
    per_second = limits.messages_per_second
    bucket = TokenBucket(per_second, per_second * _BURST_SECONDS)
    while True:
        # A flood is read no faster than agreed; the rest waits in the client's own buffers.
        await asyncio.sleep(bucket.wait_seconds())
        try:
            message = await asyncio.wait_for(websocket.receive(), limits.idle_seconds)
        except TimeoutError:
            return
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
