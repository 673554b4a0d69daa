"""One Realtime session: what the client's events do.

Events are worked off in order, those that stop something before all that wait. Sound that waits is
taken together, so a client that sends it in crumbs costs no more than one that does not.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from ttt_runtime.audio.voice_activity import SileroDetector
from ttt_runtime.server.audio_formats import InputAudio
from ttt_runtime.server.conversation import MOST_ITEMS, Conversation, Item
from ttt_runtime.server.errors import ApiError, as_api_error
from ttt_runtime.server.ids import new_id
from ttt_runtime.server.listening import Utterances
from ttt_runtime.server.options import Limits
from ttt_runtime.server.realtime.answers import Answers
from ttt_runtime.server.realtime.ears import Ears
from ttt_runtime.server.realtime.items import read_item
from ttt_runtime.server.realtime.outbox import Outbox
from ttt_runtime.server.realtime.settings import Settings
from ttt_runtime.server.realtime.user_audio import UserAudio
from ttt_runtime.server.realtime.voice import VoiceTurns
from ttt_runtime.server.service import EngineService

logger = logging.getLogger("ttt_runtime.server")
Handler = Callable[[dict[str, Any]], Awaitable[None]]
# Commands that may wait, and bytes of sound, before the client's next message is read.
_MOST_COMMANDS: Final = 256
_MOST_WAITING_BYTES: Final = 8 << 20
_TICK_SECONDS: Final = 1.0


class RealtimeSession:
    """The state of one connection.

    Args:
        service: the engine.
        settings: what the session begins with.
        outbox: where its events go.
        limits: of one client.
    """

    def __init__(
        self, service: EngineService, settings: Settings, outbox: Outbox, limits: Limits
    ) -> None:
        assistant = service.assistant
        assert assistant.tokenizer is not None
        self.conversation = Conversation()
        self.settings = settings
        self._service = service
        self._prompts = assistant.prompts
        self._tokenizer = assistant.tokenizer
        self._outbox = outbox
        self._limits = limits
        self._utterances = Utterances(self._tokenizer, limits.max_seconds)
        self._voice: VoiceTurns | None = None
        self._input = InputAudio(settings.input_format, self._tokenizer.sample_rate_hz)
        self._commands: deque[dict[str, Any] | bytearray] = deque()
        self._waiting_bytes = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self.answers = Answers(service, self.conversation, outbox)
        self._user_audio = UserAudio(service, self.conversation, self.answers, outbox)
        self._handlers: dict[str, Handler] = {
            "session.update": self._update,
            "input_audio_buffer.commit": self._commit,
            "input_audio_buffer.clear": self._clear,
            "response.create": self._create_response,
            "conversation.item.create": self._create_item,
            "conversation.item.retrieve": self._retrieve_item,
            "conversation.item.delete": self._delete_item,
        }
        self._at_once: dict[str, Handler] = {
            "response.cancel": self._cancel,
            "output_audio_buffer.clear": self._cancel_quietly,
            "conversation.item.truncate": self._truncate,
        }

    def greet(self) -> None:
        """Send what a connection begins with."""
        self._outbox.emit("session.created", session=self.settings.session)
        self._outbox.emit(
            "conversation.created",
            conversation={"id": new_id("conv"), "object": "realtime.conversation"},
        )

    async def receive(self, event: dict[str, Any]) -> None:
        """Take in one event of the client; waits while too many are waiting."""
        kind = event.get("type")
        if not isinstance(kind, str):
            self._outbox.error(ApiError("an event without type", param="type"))
        elif kind == "input_audio_buffer.append":
            self._append(event)
        elif kind in self._at_once:
            await self._guarded(self._at_once[kind], event)
        elif kind in self._handlers:
            self._commands.append(event)
            self._changed.set()
        else:
            self._outbox.error(
                ApiError(f"unknown event {kind!r:.80}", code="unknown_event", param="type"),
                event.get("event_id"),
            )
        while len(self._commands) > _MOST_COMMANDS or self._waiting_bytes > _MOST_WAITING_BYTES:
            self._room.clear()
            await self._room.wait()

    async def run(self) -> None:
        """Work off events until cancelled; what runs then is stopped."""
        try:
            await self._detect_turns()
            while True:
                await self._wake()
                if self._voice is not None:
                    await self._voice.tick()
                await self._settle()
                while self._commands:
                    command = self._commands.popleft()
                    if isinstance(command, bytearray):
                        self._waiting_bytes -= len(command)
                        await self._hear(bytes(command))
                    else:
                        await self._guarded(self._handlers[command["type"]], command)
                    await self._settle()
                    self._room.set()
                    await asyncio.sleep(0)  # what was told is sent before there is more
        finally:
            if self._voice is not None:
                self._voice.close()
            await self.answers.abandon()
            await self._user_audio.abandon()

    async def _wake(self) -> None:
        """Wait for something to do, a tick at most."""
        timer = asyncio.get_running_loop().call_later(_TICK_SECONDS, self._changed.set)
        try:
            await self._changed.wait()
        finally:
            timer.cancel()
        self._changed.clear()

    async def _settle(self) -> None:
        if self._voice is not None:
            await self._voice.settle()

    async def _guarded(self, handler: Handler, event: dict[str, Any]) -> None:
        try:
            await handler(event)
        except Exception as error:
            told = as_api_error(error)
            if told.status == 500:
                self._service.metrics.defects.add()
                logger.error("a Realtime event failed", exc_info=error)
            self._outbox.error(told, event.get("event_id"))

    # Sound in

    def _append(self, event: dict[str, Any]) -> None:
        audio = event.get("audio")
        try:
            if not isinstance(audio, str):
                raise ValueError
            data = base64.b64decode(audio, validate=True)
        except (ValueError, binascii.Error):
            message = "audio of an append is not base64; send raw samples in base64"
            self._outbox.error(ApiError(message, param="audio"), event.get("event_id"))
            return
        self._waiting_bytes += len(data)
        if self._commands and isinstance(self._commands[-1], bytearray):
            self._commands[-1].extend(data)
        else:
            self._commands.append(bytearray(data))
        self._changed.set()

    async def _hear(self, data: bytes) -> None:
        step = 2 * self.settings.input_format.rate_hz  # others are heard in between
        utterances = self._utterances
        for start in range(0, len(data), step):
            audio = self._input.push(data[start : start + step])
            if self._voice is not None:
                await self._voice.hear(audio)
            else:
                await self._service.hear(lambda audio=audio: utterances.push(audio))  # type: ignore[misc]

    async def _detect_turns(self) -> None:
        """Begin or end to detect turns, as the settings say."""
        if self.settings.turn_detection is None:
            if self._voice is not None:
                self._voice.close()
                self._voice = None
                await self._forget_sound()
        elif self._voice is not None:
            self._voice.update(self.settings)
        else:
            detector = await self._service.hear(SileroDetector)
            self._voice = VoiceTurns(
                self._service,
                self.conversation,
                self.answers,
                self._user_audio,
                self._utterances,
                self._outbox,
                Ears(detector),
                self.settings,
                self._limits.max_seconds,
                self._changed.set,
            )

    async def _commit(self, event: dict[str, Any]) -> None:
        rest = self._input.finish()
        if self._voice is not None:
            await self._voice.hear(rest)
            utterance = await self._voice.take()
        else:
            await self._service.hear(lambda: self._utterances.push(rest))
            utterance = await self._service.hear(self._utterances.take)
        if not utterance.seconds:
            raise ApiError(
                "the input audio buffer is empty; append audio before the commit",
                code="input_audio_buffer_commit_empty",
            )
        item = self._user_audio.item_of(utterance, new_id("item"))
        self._user_audio.commit(item, utterance.seconds, self.settings)

    async def _clear(self, event: dict[str, Any]) -> None:
        if self._voice is not None:
            self._voice.clear()
        await self._forget_sound()
        self._outbox.emit("input_audio_buffer.cleared")

    async def _forget_sound(self) -> None:
        self._input.finish()
        await self._service.hear(self._utterances.clear)

    # Answers

    async def _create_response(self, event: dict[str, Any]) -> None:
        if self.answers.is_answering:
            raise ApiError(
                "a response is in progress; cancel it, or wait for response.done",
                code="conversation_already_has_active_response",
            )
        asked = event.get("response")
        asked = asked if isinstance(asked, dict) else {}
        settings = self.settings
        if "output_modalities" in asked:
            settings = settings.updated({"output_modalities": asked["output_modalities"]})
        items = list(self.conversation.items)
        if isinstance(asked.get("input"), list):
            items = [await self._read_item(item) for item in asked["input"][:MOST_ITEMS]]
        await self.answers.answer(
            settings,
            items,
            metadata=asked.get("metadata"),
            in_conversation=asked.get("conversation") != "none",
        )

    async def _cancel(self, event: dict[str, Any]) -> None:
        if not self.answers.is_answering:
            raise ApiError(
                "Cancellation failed: no active response found",
                code="response_cancel_not_active",
            )
        self.answers.stop("client_cancelled")

    async def _cancel_quietly(self, event: dict[str, Any]) -> None:
        self.answers.stop("client_cancelled")

    async def _truncate(self, event: dict[str, Any]) -> None:
        item = self.conversation.find(event.get("item_id"))
        end_ms: Any = event.get("audio_end_ms")
        valid = isinstance(end_ms, int | float) and not isinstance(end_ms, bool)
        if not valid or not 0 <= end_ms < float("inf"):
            raise ApiError(
                f"audio_end_ms is {end_ms!r:.60}; expected milliseconds, 0 or more",
                param="audio_end_ms",
            )
        if not item.is_answer:
            raise ApiError("only answers can be truncated", param="item_id")
        kept_seconds = await self.answers.truncate(item, end_ms / 1e3)
        self._outbox.emit(
            "conversation.item.truncated",
            item_id=item.id,
            content_index=0,
            audio_end_ms=int(kept_seconds * 1e3),
        )

    # Items and settings

    async def _update(self, event: dict[str, Any]) -> None:
        old, new = self.settings, self.settings.updated(event.get("session"))
        if new.input_format != old.input_format:
            self._input = InputAudio(new.input_format, self._tokenizer.sample_rate_hz)
        self.settings = new
        await self._detect_turns()
        self._outbox.emit("session.updated", session=new.session)

    async def _create_item(self, event: dict[str, Any]) -> None:
        item = await self._read_item(event.get("item"))
        after = event.get("previous_item_id")
        previous = self.conversation.add(item, after if isinstance(after, str) else None)
        self._tell_item(item, previous)

    async def _read_item(self, value: Any) -> Item:
        if isinstance(value, dict) and value.get("type") == "item_reference":
            return self.conversation.find(value.get("id"))
        return await read_item(
            value, self._service, self.settings.input_format, self._limits.max_seconds
        )

    async def _retrieve_item(self, event: dict[str, Any]) -> None:
        item = self.conversation.find(event.get("item_id"))
        self._outbox.emit("conversation.item.retrieved", item=item.to_dict())

    async def _delete_item(self, event: dict[str, Any]) -> None:
        self.conversation.delete(event.get("item_id"))
        self._outbox.emit("conversation.item.deleted", item_id=event["item_id"])

    def _tell_item(self, item: Item, previous: str | None) -> None:
        for what in ("added", "done"):
            self._outbox.emit(
                f"conversation.item.{what}", item=item.to_dict(), previous_item_id=previous
            )
