"""What the user said, as the model writes it down."""

from __future__ import annotations

from typing import Any

from ttt_runtime.server.conversation import Item
from ttt_runtime.server.realtime.outbox import Outbox


class UserTranscript:
    """Tells the transcript of one item of the user, once."""

    def __init__(self, item: Item, seconds: float, outbox: Outbox) -> None:
        self._item = item
        self._seconds = seconds
        self._outbox = outbox
        self._text = ""
        self._is_told = False

    def heard(self, text: str, *, whole: bool) -> None:
        """Take in the next text; `whole`: it was the last."""
        if self._is_told:
            return
        if text:
            self._text += text
            self._emit("delta", delta=text)
        if whole:
            self.finish()

    def finish(self) -> None:
        """Tell the whole transcript if that was not done yet."""
        if self._is_told:
            return
        self._is_told = True
        text = self._text.strip()
        for part in self._item.content:
            if part.get("type") == "input_audio":
                part["transcript"] = text
        usage = {"type": "duration", "seconds": round(self._seconds, 3)}
        self._emit("completed", transcript=text, usage=usage)

    def _emit(self, what: str, **fields: Any) -> None:
        self._outbox.emit(
            f"conversation.item.input_audio_transcription.{what}",
            item_id=self._item.id,
            content_index=0,
            **fields,
        )
