"""What the user said, as an item of the conversation, and its transcript."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

from ttt_runtime.server.conversation import Conversation, Item
from ttt_runtime.server.errors import ApiError
from ttt_runtime.server.listening import Utterance
from ttt_runtime.server.realtime.answers import Answers
from ttt_runtime.server.realtime.outbox import Outbox
from ttt_runtime.server.realtime.settings import Settings
from ttt_runtime.server.realtime.transcript import UserTranscript
from ttt_runtime.server.service import EngineService
from ttt_runtime.server.tasks import end_tasks

# How long a committed item waits for an answer, which brings its transcript, before it is
# transcribed for itself.
_TRANSCRIBE_AFTER_SECONDS: Final = 0.25


class UserAudio:
    """Puts utterances into a conversation."""

    def __init__(
        self,
        service: EngineService,
        conversation: Conversation,
        answers: Answers,
        outbox: Outbox,
    ) -> None:
        self._service = service
        self._conversation = conversation
        self._answers = answers
        self._outbox = outbox
        self._tasks: set[asyncio.Task[None]] = set()

    def item_of(self, utterance: Utterance, item_id: str) -> Item:
        """Return an utterance as an item that is in no conversation yet."""
        prompts = self._service.assistant.prompts
        content: list[dict[str, Any]] = [{"type": "input_audio", "transcript": None}]
        ids = prompts.speech(utterance.codes) if utterance.codes else []
        return Item(item_id, "user", content, ids=ids)

    def commit(self, item: Item, seconds: float, settings: Settings) -> None:
        """Add an utterance of so many seconds to the conversation, and tell so.

        In a long conversation the oldest items make room for it and its answer.
        """
        for name in self._conversation.make_room(2):
            self._outbox.emit("conversation.item.deleted", item_id=name)
        previous = self._conversation.add(item)
        self._outbox.emit(
            "input_audio_buffer.committed", item_id=item.id, previous_item_id=previous
        )
        for what in ("added", "done"):
            self._outbox.emit(
                f"conversation.item.{what}", item=item.to_dict(), previous_item_id=previous
            )
        if settings.transcribes:
            transcript = UserTranscript(item, seconds, self._outbox)
            self._answers.untold = transcript
            wait_seconds = 0.0 if settings.only_transcribes else _TRANSCRIBE_AFTER_SECONDS
            task = asyncio.create_task(self._transcribe(transcript, item, wait_seconds))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def abandon(self) -> None:
        """The client is gone: stop transcribing."""
        await end_tasks(list(self._tasks))

    async def _transcribe(
        self, transcript: UserTranscript, item: Item, wait_seconds: float
    ) -> None:
        """Write down what no answer brought a transcript of."""
        await asyncio.sleep(wait_seconds)
        if self._answers.untold is not transcript:
            return
        self._answers.untold = None
        content, assistant = list(item.ids), self._service.assistant
        with contextlib.suppress(ApiError):  # the transcript is sent empty
            if content:
                turn = self._service.turn(
                    lambda cancel: assistant.respond("transcribe", content, cancel=cancel)
                )
                try:
                    reply = await turn.drain()
                finally:
                    turn.cancel()
                transcript.heard(reply.heard if reply is not None else "", whole=True)
        transcript.finish()
