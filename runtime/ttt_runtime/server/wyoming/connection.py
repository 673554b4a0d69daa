"""One Wyoming client: what its events do.

transcribe, audio-start, audio-chunk ..., audio-stop -> transcript
synthesize -> audio-start, audio-chunk ..., audio-stop
synthesize-start, synthesize-chunk ..., synthesize-stop -> audio ..., synthesize-stopped
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

from wyoming.asr import Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event, async_write_event
from wyoming.info import Info
from wyoming.ping import Pong
from wyoming.tts import SynthesizeStopped

from ttt_runtime.audio.wav_writer import pcm16
from ttt_runtime.dialogue.assistant import TextPart
from ttt_runtime.server.errors import ApiError, as_api_error
from ttt_runtime.server.listening import Utterances
from ttt_runtime.server.pcm import PcmInput
from ttt_runtime.server.speaking import check_text, spoken
from ttt_runtime.server.state import ServerState
from ttt_runtime.server.texts import SentenceStream, sentences
from ttt_runtime.server.wyoming.events import read_event

Handler = Callable[[dict[str, Any], bytes], Awaitable[None]]
_WRITE_SECONDS: Final = 30.0
_CHUNK_SECONDS: Final = 0.1


class WyomingConnection:
    """The state of one connection."""

    def __init__(
        self,
        state: ServerState,
        info: Info,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        assistant = state.service.assistant
        assert assistant.tokenizer is not None
        assert assistant.decoder is not None
        self._state = state
        self._service = state.service
        self._info = info
        self._reader, self._writer = reader, writer
        self._tokenizer, self._rate_hz = assistant.tokenizer, assistant.decoder.sample_rate_hz
        self._utterances = Utterances(self._tokenizer, state.options.limits.max_seconds)
        self._input: PcmInput | None = None
        self._streamed: SentenceStream | None = None  # of a text that comes in pieces
        self._streamed_characters = 0
        self._has_begun_audio = False
        self._handlers: dict[str, Handler] = {
            "describe": self._describe,
            "ping": self._ping,
            "transcribe": self._transcribe,
            "audio-start": self._audio_start,
            "audio-chunk": self._audio_chunk,
            "audio-stop": self._audio_stop,
            "synthesize": self._synthesize,
            "synthesize-start": self._synthesize_start,
            "synthesize-chunk": self._synthesize_chunk,
            "synthesize-stop": self._synthesize_stop,
        }

    async def run(self) -> None:
        """Serve until the client leaves. Events that this server does not know are passed over."""
        limits = self._state.options.limits
        patience = (limits.idle_seconds, limits.header_seconds)
        while (event := await read_event(self._reader, *patience)) is not None:
            handler = self._handlers.get(event.type)
            if handler is None:
                continue
            try:
                await handler(event.data, event.payload or b"")
            except (OSError, asyncio.TimeoutError):
                raise
            except Exception as error:
                told = as_api_error(error)
                await self._send(Error(text=str(told), code=told.code).event())
                if told.status == 500:
                    raise

    async def _send(self, event: Event) -> None:
        """Write an event; a client that does not read for too long is left."""
        await asyncio.wait_for(async_write_event(event, self._writer), _WRITE_SECONDS)

    async def _describe(self, data: dict[str, Any], payload: bytes) -> None:
        await self._send(self._info.event())

    async def _ping(self, data: dict[str, Any], payload: bytes) -> None:
        text = data.get("text")
        await self._send(Pong(text if isinstance(text, str) else None).event())

    # Speech to text

    async def _transcribe(self, data: dict[str, Any], payload: bytes) -> None:
        self._input = None
        await self._service.hear(self._utterances.clear)

    async def _audio_start(self, data: dict[str, Any], payload: bytes) -> None:
        self._input = PcmInput.of(data, self._tokenizer.sample_rate_hz)

    async def _audio_chunk(self, data: dict[str, Any], payload: bytes) -> None:
        if self._input is None:
            self._input = PcmInput.of(data, self._tokenizer.sample_rate_hz)
        audio = self._input.push(payload)
        utterances = self._utterances
        await self._service.hear(lambda: utterances.push(audio))

    async def _audio_stop(self, data: dict[str, Any], payload: bytes) -> None:
        source, self._input = self._input, None
        if source is not None:
            await self._service.hear(lambda: self._utterances.push(source.finish()))
        utterance = await self._service.hear(self._utterances.take)
        assistant = self._service.assistant
        content = assistant.prompts.speech(utterance.codes) if utterance.codes else []
        text = ""
        await self._send(TranscriptStart().event())
        if content:
            turn = self._service.turn(
                lambda cancel: assistant.respond("transcribe", content, cancel=cancel)
            )
            status = "cancelled"
            try:
                async for part in turn:
                    if isinstance(part, TextPart) and part.text:
                        await self._send(TranscriptChunk(part.text).event())
                status = "completed"
            finally:
                turn.cancel()
                self._state.metrics.turn_ended("transcribe", status, turn.reply)
            text = turn.reply.heard if turn.reply is not None else ""
        await self._send(Transcript(text).event())
        await self._send(TranscriptStop().event())

    # Text to speech

    async def _synthesize(self, data: dict[str, Any], payload: bytes) -> None:
        if self._streamed is not None:
            return  # clients repeat a streamed text as a whole, for servers that do not stream
        text = check_text(data.get("text"), self._state.options.limits.text_characters, "text")
        self._has_begun_audio = False
        await self._speak(sentences(text))
        await self._end_audio()

    async def _synthesize_start(self, data: dict[str, Any], payload: bytes) -> None:
        self._streamed, self._streamed_characters = SentenceStream(), 0
        self._has_begun_audio = False

    async def _synthesize_chunk(self, data: dict[str, Any], payload: bytes) -> None:
        text = data.get("text")
        if self._streamed is None or not isinstance(text, str):
            raise ApiError("a synthesize-chunk without synthesize-start, or without text")
        self._streamed_characters += len(text)
        most = self._state.options.limits.text_characters
        if self._streamed_characters > most:
            raise ApiError(f"the text has more than {most} characters; send it in parts")
        await self._speak(self._streamed.push(text))

    async def _synthesize_stop(self, data: dict[str, Any], payload: bytes) -> None:
        streamed, self._streamed = self._streamed, None
        if streamed is not None:
            await self._speak(streamed.finish())
            await self._end_audio()
        await self._send(SynthesizeStopped().event())

    async def _speak(self, texts: list[str]) -> None:
        for text in texts:
            self._service.assistant.prompts.encode_plain(text)
        step = int(_CHUNK_SECONDS * self._rate_hz)
        async with aclosing(spoken(self._service, texts)) as sound:
            async for audio in sound:
                await self._begin_audio()
                for start in range(0, len(audio), step):
                    data = pcm16(audio[start : start + step])
                    await self._send(AudioChunk(self._rate_hz, 2, 1, data).event())

    async def _begin_audio(self) -> None:
        if not self._has_begun_audio:
            self._has_begun_audio = True
            await self._send(AudioStart(self._rate_hz, 2, 1).event())

    async def _end_audio(self) -> None:
        await self._begin_audio()
        await self._send(AudioStop().event())
