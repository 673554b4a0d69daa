"""One Realtime session: what the client's events do.

Events are worked off in order, those that stop something before all that wait. Sound that waits is
taken together, so a client that sends it in crumbs costs no more than one that does not.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from threading import Event
from time import monotonic
from typing import Any, Final

from ttt_runtime.dialogue.assistant import Part
from ttt_runtime.server.audio_formats import InputAudio
from ttt_runtime.server.conversation import MOST_ITEMS, Conversation, Item, cut_item, prompt_of
from ttt_runtime.server.errors import ApiError, as_api_error
from ttt_runtime.server.ids import new_id
from ttt_runtime.server.listening import Utterance, Utterances
from ttt_runtime.server.options import Limits
from ttt_runtime.server.realtime.items import read_item
from ttt_runtime.server.realtime.outbox import Outbox
from ttt_runtime.server.realtime.response import Listeners, Plan, Response
from ttt_runtime.server.realtime.settings import Settings
from ttt_runtime.server.realtime.transcript import UserTranscript
from ttt_runtime.server.service import EngineService, Turn

logger = logging.getLogger("ttt_runtime.server")
Handler = Callable[[dict[str, Any]], Awaitable[None]]
# Commands that may wait, and bytes of sound, before the client's next message is read.
_MOST_COMMANDS: Final = 256
_MOST_WAITING_BYTES: Final = 8 << 20
# How long a committed item waits for an answer, which brings its transcript, before it is
# transcribed for itself.
_TRANSCRIBE_AFTER_SECONDS: Final = 0.25


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
        self._input = InputAudio(settings.input_format, self._tokenizer.sample_rate_hz)
        self._commands: deque[dict[str, Any] | bytearray] = deque()
        self._waiting_bytes = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._response: Response | None = None
        self._response_task: asyncio.Task[None] | None = None
        self._side_tasks: set[asyncio.Task[None]] = set()
        self._untold: UserTranscript | None = None  # of the newest audio item
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
            while True:
                await self._changed.wait()
                self._changed.clear()
                while self._commands:
                    command = self._commands.popleft()
                    if isinstance(command, bytearray):
                        self._waiting_bytes -= len(command)
                        await self._hear(bytes(command))
                    else:
                        await self._guarded(self._handlers[command["type"]], command)
                    self._room.set()
        finally:
            self.stop("client_gone")
            tasks = [task for task in (self._response_task, *self._side_tasks) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

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
        audio = self._input.push(data)
        utterances = self._utterances
        await self._service.call(lambda: utterances.push(audio))

    async def _commit(self, event: dict[str, Any]) -> None:
        utterance = await self._service.call(self._utterances.take)
        if not utterance.seconds:
            raise ApiError(
                "the input audio buffer is empty; append audio before the commit",
                code="input_audio_buffer_commit_empty",
            )
        self._add_audio(utterance, new_id("item"))

    async def _clear(self, event: dict[str, Any]) -> None:
        await self._service.call(self._utterances.clear)
        self._outbox.emit("input_audio_buffer.cleared")

    def _add_audio(self, utterance: Utterance, item_id: str) -> None:
        content: list[dict[str, Any]] = [{"type": "input_audio", "transcript": None}]
        ids = self._prompts.speech(utterance.codes) if utterance.codes else []
        item = Item(item_id, "user", content, ids=ids)
        previous = self.conversation.add(item)
        self._outbox.emit(
            "input_audio_buffer.committed", item_id=item.id, previous_item_id=previous
        )
        self._tell_item(item, previous)
        if self.settings.transcribes:
            self._untold = UserTranscript(item, utterance.seconds, self._outbox)
            self._in_background(self._transcribe(self._untold, item))

    async def _transcribe(self, transcript: UserTranscript, item: Item) -> None:
        """Write down what no answer brought a transcript of."""
        if not self.settings.only_transcribes:
            await asyncio.sleep(_TRANSCRIBE_AFTER_SECONDS)
        if self._untold is not transcript:
            return
        self._untold = None
        content = list(item.ids)
        with contextlib.suppress(ApiError):  # the transcript is told empty
            if content:
                turn = self._service.turn(
                    lambda cancel: self._service.assistant.respond(
                        "transcribe", content, cancel=cancel
                    )
                )
                reply = await turn.drain()
                transcript.heard(reply.heard if reply is not None else "", whole=True)
        transcript.finish()

    # Answers

    async def _create_response(self, event: dict[str, Any]) -> None:
        if self.is_answering:
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
        await self.answer(
            settings,
            items,
            metadata=asked.get("metadata"),
            in_conversation=asked.get("conversation") != "none",
        )

    @property
    def is_answering(self) -> bool:
        """True while a response is on its way."""
        return self._response_task is not None and not self._response_task.done()

    async def answer(
        self,
        settings: Settings,
        items: list[Item],
        *,
        metadata: Any = None,
        in_conversation: bool = True,
        turn: Turn | None = None,
        decided_at: float | None = None,
        listeners: Listeners | None = None,
    ) -> Response:
        """Begin a response; a turn that was begun already is taken over."""
        decided_at = monotonic() if decided_at is None else decided_at
        if self._response_task is not None:  # a cancelled one, at its last events
            await asyncio.gather(self._response_task, return_exceptions=True)
        failure: BaseException | None = None
        if turn is None:
            try:
                turn = self.begin_turn(settings, items)
            except ApiError as error:
                failure = error
        item = Item(new_id("item"), "assistant", [], status="in_progress")
        previous = self.conversation.last_id
        if in_conversation:
            self.conversation.add(item)
        transcript, self._untold = self._untold, None
        decoder = self._service.assistant.decoder
        plan = Plan(
            turn=turn,
            item=item,
            previous_id=previous,
            settings=settings,
            prompts=self._prompts,
            rate_hz=decoder.sample_rate_hz if decoder is not None else 1,
            frame_rate_hz=self._tokenizer.frame_rate_hz,
            decided_at=decided_at,
            transcript_first=self._prompts.prompts.transcript_first and not _is_silence(items),
            transcript=transcript,
            metadata=metadata,
            in_conversation=in_conversation,
            failure=failure,
            listeners=listeners or Listeners(),
        )
        self._response = Response(plan, self._outbox, self._service.metrics)
        self._response_task = asyncio.create_task(self._response.run())
        return self._response

    def begin_turn(
        self,
        settings: Settings,
        items: list[Item],
        watch: Callable[[Part], None] | None = None,
    ) -> Turn:
        """Let the engine answer the newest items.

        Raises:
            ApiError: there is nothing to answer, or the server is busy.
        """
        assistant = self._service.assistant
        history: list[int] = []
        content: list[int] = []
        if not _is_silence(items):
            history, content = prompt_of(
                items,
                self._prompts,
                "answer",
                assistant.config,
                assistant.engine.runner.capacity,
            )
        speak = settings.speaks

        def begin(cancel: Event) -> Iterator[Part]:
            return assistant.respond("answer", content, history=history, cancel=cancel, speak=speak)

        return self._service.turn(begin, watch=watch)

    def stop(self, reason: str) -> None:
        """Cancel the response, if one is on its way."""
        if self._response is not None and self.is_answering:
            self._response.cancel(reason)

    async def _cancel(self, event: dict[str, Any]) -> None:
        if not self.is_answering:
            raise ApiError(
                "Cancellation failed: no active response found",
                code="response_cancel_not_active",
            )
        self.stop("client_cancelled")

    async def _cancel_quietly(self, event: dict[str, Any]) -> None:
        self.stop("client_cancelled")

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
        response = self._response
        if response is not None and response.item is item and self.is_answering:
            response.cancel("client_cancelled")
            assert self._response_task is not None
            await asyncio.gather(self._response_task, return_exceptions=True)
        heard_seconds = min(end_ms / 1e3, item.sent_seconds)
        before = list(item.ids)
        cut_item(item, self._prompts, heard_seconds, self._tokenizer.frame_rate_hz)
        if item.ids != before:
            await self._service.call(lambda: self._service.forget_behind(before, item.ids))
        self._outbox.emit(
            "conversation.item.truncated",
            item_id=item.id,
            content_index=0,
            audio_end_ms=int(heard_seconds * 1e3),
        )

    # Items and settings

    async def _update(self, event: dict[str, Any]) -> None:
        old, new = self.settings, self.settings.updated(event.get("session"))
        if new.input_format != old.input_format:
            self._input = InputAudio(new.input_format, self._tokenizer.sample_rate_hz)
        self.settings = new
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

    def _in_background(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._side_tasks.add(task)
        task.add_done_callback(self._side_tasks.discard)


def _is_silence(items: list[Item]) -> bool:
    """Tell whether the newest message is a user's that says nothing."""
    newest = next((item for item in reversed(items) if item.type == "message"), None)
    return newest is not None and newest.role == "user" and not newest.ids
