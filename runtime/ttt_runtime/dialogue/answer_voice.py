"""One answer's codes on their way to sound."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import numpy as np

from ttt_ref.config import TokenLayout
from ttt_runtime.codec.base import Audio, DecoderStream, SpeechDecoder
from ttt_runtime.decode.deadline import DeadlineSchedule
from ttt_runtime.decode.events import DoneEvent, SpeechEvent
from ttt_runtime.dialogue.timeline import Timeline


class AnswerVoice:
    """Decodes the codes of one answer as they come."""

    def __init__(self, decoder: SpeechDecoder, timeline: Timeline, layout: TokenLayout) -> None:
        self.playback: DeadlineSchedule | None = None
        self._stream: DecoderStream = decoder.stream()
        self._rate_hz = decoder.sample_rate_hz
        self._timeline = timeline
        self._layout = layout
        self._samples = 0

    @property
    def seconds(self) -> float:
        """Length of the audio given so far."""
        return self._samples / self._rate_hz

    def decode(self, event: SpeechEvent | DoneEvent) -> Sequence[Audio]:
        """Give the audio that a block completes; at the end what waited for its right context."""
        layout, begin = self._layout, perf_counter()
        if isinstance(event, SpeechEvent):
            codes = [layout.id_to_code(i) for i in event.ids if layout.is_code(i)]
            if not codes:
                return ()
            with self._timeline.phase("decode", f"{len(codes)} codes"):
                audio = self._stream.push(np.array(codes, dtype=np.int64))
        elif event.reason == "cancelled":
            return ()
        else:
            with self._timeline.phase("decode", "finish"):
                audio = self._stream.finish()
        if self.playback is not None:
            self.playback.decoded(perf_counter() - begin)
        if not len(audio):
            return ()
        self._timeline.mark_first_audio()
        self._samples += len(audio)
        if self.playback is not None:
            self.playback.queue(len(audio) / self._rate_hz)
        return (audio,)
