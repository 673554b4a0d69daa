"""One answer as the Realtime protocol tells it: from response.created to response.done."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

from ttt_runtime.dialogue.assistant import AudioPart, Reply, TextPart
from ttt_runtime.dialogue.prompt import PromptBuilder
from ttt_runtime.server.audio_formats import Audio, OutputAudio
from ttt_runtime.server.conversation import Item, cut_item
from ttt_runtime.server.errors import as_api_error
from ttt_runtime.server.ids import new_id
from ttt_runtime.server.metrics import Metrics
from ttt_runtime.server.pacing import Pace
from ttt_runtime.server.realtime.outbox import Outbox
from ttt_runtime.server.realtime.settings import Settings
from ttt_runtime.server.realtime.transcript import UserTranscript
from ttt_runtime.server.service import Turn
from ttt_runtime.server.timing import timing_event
from ttt_runtime.server.transcript_split import TranscriptSplit

logger = logging.getLogger("ttt_runtime.server")
# Sound of one delta: short enough to stop in, long enough not to be all overhead.
DELTA_SECONDS: Final = 0.2


@dataclass(slots=True)
class Listeners:
    """Who wants to know how far the answer is."""

    sounds: Callable[[], None] = lambda: None
    ended: Callable[[float], None] = lambda unplayed_seconds: None


@dataclass(slots=True)
class Plan:
    """What a response is made of.

    Attributes:
        turn: what computes it; None if that failed to begin, with `failure`.
        item: the answer's item.
        previous_id: name of the item before it.
        settings: of the session when the response began.
        rate_hz: of the sound that the turn gives.
        frame_rate_hz: speech tokens a second.
        decided_at: when (`monotonic`) it was known that the user's turn is over.
        transcript: of the user's item; None if nobody wants one.
        transcript_first: the turn's first line is that transcript.
        in_conversation: False for an answer that is not kept.
    """

    turn: Turn | None
    item: Item
    previous_id: str | None
    settings: Settings
    prompts: PromptBuilder
    rate_hz: int
    frame_rate_hz: float
    decided_at: float
    transcript_first: bool
    transcript: UserTranscript | None = None
    metadata: Any = None
    in_conversation: bool = True
    failure: BaseException | None = None
    listeners: Listeners = field(default_factory=Listeners)


class Response:
    """Runs one plan.

    Attributes:
        id: the response's name.
        item: the answer's item.
        pace: how much of its sound was sent.
    """

    def __init__(self, plan: Plan, outbox: Outbox, metrics: Metrics) -> None:
        self.id = new_id("resp")
        self.item = plan.item
        self.pace = Pace()
        self._plan = plan
        self._outbox = outbox
        self._metrics = metrics
        self._voice = OutputAudio(plan.settings.output_format, plan.rate_hz)
        self._cancelled = asyncio.Event()
        self._reason: str | None = None
        self._text = ""
        self._first_audio_ms: float | None = None
        self._place = {
            "response_id": self.id,
            "item_id": plan.item.id,
            "output_index": 0,
            "content_index": 0,
        }

    def cancel(self, reason: str) -> None:
        """End it now: `turn_detected` or `client_cancelled`."""
        if self._reason is None:
            self._reason = reason
            self._metrics.interrupts.add(by=reason)
            self._cancelled.set()
            if self._plan.turn is not None:
                self._plan.turn.cancel()

    async def run(self) -> None:
        """Tell the answer as it comes; never raises for a turn that fails."""
        self._begin()
        failure = self._plan.failure
        try:
            if failure is None:
                await self._follow()
        except asyncio.CancelledError:
            self.cancel("client_gone")
            raise
        except Exception as error:
            failure = error
        if failure is not None:
            api_error = as_api_error(failure)
            if api_error.status >= 500 and api_error.code is None:
                self._metrics.defects.add()
                logger.error("a response failed", exc_info=failure)
        self._end(failure)

    async def _follow(self) -> None:
        assert self._plan.turn is not None
        split = TranscriptSplit(self._plan.transcript_first)
        async for part in self._plan.turn:
            if isinstance(part, TextPart):
                heard, said = split.push(part.text)
                if self._plan.transcript is not None:
                    self._plan.transcript.heard(heard, whole=split.is_over)
                self._say(said)
            elif isinstance(part, AudioPart):
                await self._sound(part.audio)
            else:
                await self._last(part)
        if self._plan.transcript is not None:
            self._plan.transcript.finish()

    def _say(self, text: str) -> None:
        if self._cancelled.is_set() or not text:
            return
        self._text += text
        kind = "output_audio_transcript" if self._plan.settings.speaks else "output_text"
        self._outbox.emit(f"response.{kind}.delta", **self._place, delta=text)

    async def _sound(self, audio: Audio) -> None:
        step = int(DELTA_SECONDS * self._plan.rate_hz)
        for start in range(0, len(audio), step):
            await self._send(self._voice.push(audio[start : start + step]))

    async def _last(self, reply: Reply) -> None:
        if self._plan.settings.speaks and not self._cancelled.is_set():
            await self._send(self._voice.finish())
        item = self.item
        answer = list(reply.history[reply.prompt_tokens :])
        if answer:
            finished = reply.reason == "end"
            im_end = (self._plan.prompts.layout.im_end_id,) if finished else ()
            after = self._plan.prompts.end_of_answer(im_end)
            item.ids = answer[: len(answer) - len(after)]
        item.finished = reply.reason == "end"
        item.sent_seconds = self.pace.sent_seconds

    async def _send(self, data: bytes) -> None:
        if not data:
            return
        await self.pace.wait(self._cancelled)
        if self._cancelled.is_set():
            return
        if self._first_audio_ms is None:
            self._first_audio_ms = 1e3 * (monotonic() - self._plan.decided_at)
            self._metrics.first_audio.observe(self._first_audio_ms)
            self._plan.listeners.sounds()
        self._outbox.emit(
            "response.output_audio.delta", **self._place, delta=base64.b64encode(data).decode()
        )
        self.pace.sent(len(data) / self._voice.bytes_per_second)

    def _begin(self) -> None:
        plan, emit = self._plan, self._outbox.emit
        emit("response.created", response=self._object("in_progress"))
        item = plan.item.to_dict() | {"status": "in_progress", "content": []}
        emit("response.output_item.added", response_id=self.id, output_index=0, item=item)
        if plan.in_conversation:
            emit("conversation.item.added", item=item, previous_item_id=plan.previous_id)
        emit("response.content_part.added", **self._place, part=self._part(""))

    def _end(self, failure: BaseException | None) -> None:
        plan, emit, item = self._plan, self._outbox.emit, self.item
        whole = self._reason is None and failure is None
        item.status = "completed" if whole else "incomplete"
        text = self._text.strip()
        item.content = [self._content(text)]
        if not whole and plan.settings.speaks:
            text = cut_item(item, plan.prompts, self.pace.sent_seconds, plan.frame_rate_hz)
        if plan.settings.speaks:
            emit("response.output_audio.done", **self._place)
            emit("response.output_audio_transcript.done", **self._place, transcript=text)
        else:
            emit("response.output_text.done", **self._place, text=text)
        emit("response.content_part.done", **self._place, part=self._part(text))
        if plan.in_conversation:
            emit("conversation.item.done", item=item.to_dict(), previous_item_id=plan.previous_id)
        emit("response.output_item.done", response_id=self.id, output_index=0, item=item.to_dict())
        status = "failed" if failure is not None else "completed" if whole else "cancelled"
        emit("response.done", response=self._object(status, failure))
        self._count(status)
        plan.listeners.ended(self.pace.unplayed_seconds if whole else 0.0)

    def _count(self, status: str) -> None:
        reply = self._plan.turn.reply if self._plan.turn is not None else None
        self._metrics.turn_ended("answer", status, reply, self._first_audio_ms)
        if self.pace.underruns:
            self._metrics.underruns.add(self.pace.underruns)
        if reply is not None and self._plan.settings.tells_timing:
            self._outbox.emit(
                "ttt.timing",
                response_id=self.id,
                **timing_event(reply.timeline, self._first_audio_ms),
            )

    def _object(self, status: str, failure: BaseException | None = None) -> dict[str, Any]:
        settings = self._plan.settings
        done = status != "in_progress"
        target = settings.session["audio"]["output"]
        return {
            "id": self.id,
            "object": "realtime.response",
            "status": status,
            "status_details": self._details(status, failure),
            "output": [self.item.to_dict()] if done else [],
            "conversation_id": "conversation" if self._plan.in_conversation else None,
            "output_modalities": ["audio"] if settings.speaks else ["text"],
            "max_output_tokens": "inf",
            "audio": {
                "output": {
                    "format": settings.output_format.to_dict(),
                    "voice": target.get("voice", "default"),
                }
            },
            "usage": self._usage() if done else None,
            "metadata": self._plan.metadata,
        }

    def _details(self, status: str, failure: BaseException | None) -> dict[str, Any] | None:
        if status == "failed" and failure is not None:
            error = as_api_error(failure)
            return {"type": "failed", "error": {"type": error.kind, "code": error.code}}
        if status == "cancelled":
            return {"type": "cancelled", "reason": self._reason}
        return None

    def _usage(self) -> dict[str, Any]:
        reply = self._plan.turn.reply if self._plan.turn is not None else None
        is_audio = self._plan.prompts.layout.is_audio
        prompt = reply.history[: reply.prompt_tokens] if reply is not None else ()
        answer = reply.history[reply.prompt_tokens :] if reply is not None else ()
        heard, said = (sum(map(is_audio, ids)) for ids in (prompt, answer))
        return {
            "total_tokens": len(prompt) + len(answer),
            "input_tokens": len(prompt),
            "output_tokens": len(answer),
            "input_token_details": {
                "text_tokens": len(prompt) - heard,
                "audio_tokens": heard,
                "cached_tokens": 0,
            },
            "output_token_details": {"text_tokens": len(answer) - said, "audio_tokens": said},
        }

    def _part(self, text: str) -> dict[str, Any]:
        if self._plan.settings.speaks:
            return {"type": "audio", "transcript": text}
        return {"type": "text", "text": text}

    def _content(self, text: str) -> dict[str, Any]:
        if self._plan.settings.speaks:
            return {"type": "output_audio", "transcript": text}
        return {"type": "output_text", "text": text}
