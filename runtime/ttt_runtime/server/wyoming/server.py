"""The TCP server of Wyoming: connections, limits and what this server can do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from wyoming.info import AsrModel, AsrProgram, Attribution, Info, TtsProgram, TtsVoice

from ttt_ref.package import installed_version
from ttt_runtime.server.errors import as_api_error
from ttt_runtime.server.listen import listen
from ttt_runtime.server.state import ServerState
from ttt_runtime.server.tasks import end_tasks
from ttt_runtime.server.wyoming.connection import WyomingConnection
from ttt_runtime.server.wyoming.events import LONGEST_LINE

logger = logging.getLogger("ttt_runtime.server")


def describe(state: ServerState) -> Info:
    """Return the description of this server for clients: the tasks that its bundle has."""
    tasks = state.service.assistant.prompts.prompts.system
    maker = Attribution("TtT edge", "https://arxiv.org/abs/2509.20072")
    # Attribution, installed and version: clients refuse programs without them.
    common: dict[str, Any] = {
        "attribution": maker,
        "installed": True,
        "version": installed_version(),
    }
    name = state.model_name
    model = AsrModel(name, description=name, languages=["en"], **common)
    voice = TtsVoice(name, description=name, languages=["en"], **common)
    info = Info()
    if "transcribe" in tasks:
        program = AsrProgram(
            "ttt-edge",
            description="Speech to text",
            models=[model],
            supports_transcript_streaming=True,
            **common,
        )
        info.asr.append(program)
    if "speak" in tasks:
        info.tts.append(
            TtsProgram(
                "ttt-edge",
                description="Text to speech",
                voices=[voice],
                supports_synthesize_streaming=True,
                **common,
            )
        )
    return info


class WyomingServer:
    """Listens on Wyoming's port while the server runs."""

    def __init__(self, state: ServerState) -> None:
        self.port: int | None = None
        self._state = state
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            ConfigError: the port is taken.
        """
        options = self._state.options
        place = listen(options.wyoming_host, options.wyoming_port or 0)
        self._server = await asyncio.start_server(self._connected, sock=place, limit=LONGEST_LINE)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End all connections."""
        if self._server is None:
            return
        self._server.close()
        await end_tasks(self._tasks)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state = self._state
        if state.wyoming_connections >= state.options.limits.wyoming_connections:
            state.metrics.refused.add(reason="wyoming_connections")
            writer.transport.abort()
            return
        state.wyoming_connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await WyomingConnection(state, describe(state), reader, writer).run()
        except (OSError, asyncio.TimeoutError):
            logger.debug("a Wyoming client left or was too slow")
        except Exception as error:
            told = as_api_error(error)
            state.metrics.refused.add(reason="wyoming")
            if told.status == 500:
                state.metrics.defects.add()
                logger.error("a Wyoming connection failed", exc_info=error)
        finally:
            state.wyoming_connections -= 1
            self._tasks.discard(task)
            with contextlib.suppress(OSError):
                writer.transport.abort()
