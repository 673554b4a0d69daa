"""Everything of one process, started and ended together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any, Final

import numpy as np
import uvicorn

from ttt_ref.errors import ConfigError
from ttt_runtime.dialogue.assistant import Assistant
from ttt_runtime.server.app import build_app
from ttt_runtime.server.listen import listen
from ttt_runtime.server.metrics import Metrics
from ttt_runtime.server.notify import notify, watchdog_seconds
from ttt_runtime.server.options import ServerOptions
from ttt_runtime.server.protocols import GuardedWebSocket, http_protocol
from ttt_runtime.server.recordings import heard
from ttt_runtime.server.routes.health import STUCK_SECONDS
from ttt_runtime.server.security import Guard
from ttt_runtime.server.service import EngineService
from ttt_runtime.server.state import ServerState
from ttt_runtime.server.wyoming.server import WyomingServer

logger = logging.getLogger("ttt_runtime.server")
_PING_SECONDS: Final = 20.0
_PONG_SECONDS: Final = 60.0
_GRACE_SECONDS: Final = 3


def make_state(assistant: Assistant, model_name: str, options: ServerOptions) -> ServerState:
    """Return a server that has not started yet.

    Raises:
        ConfigError: it would be open to the network without a token.
    """
    guard = Guard(options.host, options.token, options.allowed_hosts, options.allowed_origins)
    if assistant.tokenizer is None or assistant.decoder is None:
        raise ConfigError("this bundle has no codec, and so no ears and no voice; export it again")
    assistant.engine.interleaved = True
    assistant.engine.tells_probability = True  # of transcripts: they end turns
    metrics = Metrics()
    service = EngineService(assistant, metrics, most_waiting=options.limits.waiting_turns)
    return ServerState(options, service, metrics, model_name, guard)


@contextlib.asynccontextmanager
async def serving(state: ServerState) -> AsyncIterator[uvicorn.Server]:
    """Run a server while the block runs; it listens when the block begins."""
    options = state.options
    limits = options.limits
    tls: dict[str, Any] = {}
    if options.tls_cert is not None:
        tls = {"ssl_certfile": str(options.tls_cert), "ssl_keyfile": str(options.tls_key)}
    config = uvicorn.Config(
        build_app(state),
        http=http_protocol(limits),
        ws=GuardedWebSocket,
        ws_max_size=limits.message_bytes,
        ws_ping_interval=_PING_SECONDS,
        ws_ping_timeout=_PONG_SECONDS,
        ws_per_message_deflate=False,  # a message is as long as it looks
        timeout_graceful_shutdown=_GRACE_SECONDS,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        **tls,
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    state.service.start()
    place = listen(options.host, options.port)
    listening = asyncio.create_task(server.serve([place]))
    wyoming = WyomingServer(state)
    background: list[asyncio.Task[None]] = []
    try:
        while not server.started and not listening.done():
            await asyncio.sleep(0.005)
        state.port = place.getsockname()[1]
        if options.wyoming_port is not None:
            await wyoming.start()
            state.wyoming_port = wyoming.port
        background = [asyncio.create_task(_warm_up(state)), asyncio.create_task(_keep_alive(state))]
        yield server
    finally:
        notify("STOPPING=1")
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await wyoming.stop()
        server.should_exit = True
        with contextlib.suppress(SystemExit):
            await listening
        await asyncio.to_thread(state.service.stop)


async def _warm_up(state: ServerState) -> None:
    """Compute one answer: what it touches first is slow once."""
    assistant = state.service.assistant
    assert assistant.tokenizer is not None
    rate_hz = assistant.tokenizer.sample_rate_hz
    hiss = np.random.default_rng(0).normal(0.0, 0.05, rate_hz).astype(np.float32)
    try:
        utterance = await heard(state.service, hiss, 1.0)
        content = assistant.prompts.speech(utterance.codes)
        await state.service.turn(
            lambda cancel: assistant.respond("answer", content, cancel=cancel)
        ).drain()
        await state.service.call(assistant.engine.reset)
    except Exception:
        logger.exception("the warm-up answer failed; this server is not ready")
        return
    state.ready = True
    notify("READY=1")
    logger.info("ready: %s", state.model_name)


async def _keep_alive(state: ServerState) -> None:
    """Tell systemd that the loop turns and the engine goes on; a stuck one is restarted."""
    period = watchdog_seconds()
    while period is not None:
        if state.service.stuck_seconds < STUCK_SECONDS:
            notify("WATCHDOG=1")
        await asyncio.sleep(period / 3)
