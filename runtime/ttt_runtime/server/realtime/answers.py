"""The answers of one session: one at a time, begun, cancelled and cut."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from threading import Event
from time import monotonic
from typing import Any

from ttt_runtime.dialogue.assistant import Part
from ttt_runtime.server.conversation import Conversation, Item, cut_item, is_silence, turn_ids
from ttt_runtime.server.errors import ApiError
from ttt_runtime.server.ids import new_id
from ttt_runtime.server.realtime.outbox import Outbox
from ttt_runtime.server.realtime.response import Listeners, Plan, Response
from ttt_runtime.server.realtime.settings import Settings
from ttt_runtime.server.realtime.transcript import UserTranscript
from ttt_runtime.server.service import EngineService, Turn
from ttt_runtime.server.tasks import end_tasks


class Answers:
    """Begins responses and knows the one that runs.

    Attributes:
        untold: the transcript of the newest audio item, until an answer brings it.
    """

    def __init__(self, service: EngineService, conversation: Conversation, outbox: Outbox) -> None:
        assistant = service.assistant
        assert assistant.tokenizer is not None
        self.untold: UserTranscript | None = None
        self._service = service
        self._prompts = assistant.prompts
        self._frame_rate_hz = assistant.tokenizer.frame_rate_hz
        self._conversation = conversation
        self._outbox = outbox
        self._response: Response | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_answering(self) -> bool:
        """True while a response is on its way."""
        return self._task is not None and not self._task.done()

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
        if self._task is not None:  # a cancelled one, at its last events
            await asyncio.gather(self._task, return_exceptions=True)
        failure: BaseException | None = None
        if turn is None:
            try:
                turn = self.begin_turn(settings, items)
            except ApiError as error:
                failure = error
        item = Item(new_id("item"), "assistant", [], status="in_progress")
        previous = self._conversation.last_id
        if in_conversation:
            self._conversation.add(item)
        transcript, self.untold = self.untold, None
        decoder = self._service.assistant.decoder
        plan = Plan(
            turn=turn,
            item=item,
            previous_id=previous,
            settings=settings,
            prompts=self._prompts,
            rate_hz=decoder.sample_rate_hz if decoder is not None else 1,
            frame_rate_hz=self._frame_rate_hz,
            decided_at=decided_at,
            transcript_first=self._prompts.prompts.transcript_first and not is_silence(items),
            transcript=transcript,
            metadata=metadata,
            in_conversation=in_conversation,
            failure=failure,
            listeners=listeners or Listeners(),
        )
        self._response = Response(plan, self._outbox, self._service.metrics)
        self._task = asyncio.create_task(self._response.run())
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
        ids = turn_ids(
            items, self._prompts, "answer", assistant.config, assistant.engine.runner.capacity
        )
        speak = settings.speaks

        def begin(cancel: Event) -> Iterator[Part]:
            return assistant.respond(
                "answer",
                ids.content,
                history=ids.history,
                transcript=ids.transcript,
                cancel=cancel,
                speak=speak,
            )

        return self._service.turn(begin, watch=watch)

    def stop(self, reason: str) -> None:
        """Cancel the response, if one is on its way."""
        if self._response is not None and self.is_answering:
            self._response.cancel(reason)

    async def truncate(self, item: Item, heard_seconds: float) -> float:
        """Cut an answer, and the cache behind it, to what was heard; return the seconds kept.

        More than was sent cannot have been heard. One that is on its way ends.
        """
        if self._response is not None and self._response.item is item and self.is_answering:
            self._response.cancel("client_cancelled")
            await self.end()
        kept_seconds = min(heard_seconds, item.sent_seconds)
        before = list(item.ids)
        cut_item(item, self._prompts, kept_seconds, self._frame_rate_hz)
        if item.ids != before:
            await self._service.call(lambda: self._service.forget_behind(before, item.ids))
        return kept_seconds

    @property
    def newest(self) -> Item | None:
        """The item of the newest answer."""
        return self._response.item if self._response is not None else None

    async def end(self) -> None:
        """Wait for the last events of a response that was cancelled."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def abandon(self) -> None:
        """The client is gone: stop everything."""
        self.stop("client_gone")
        if self._task is not None:
            await end_tasks([self._task])
