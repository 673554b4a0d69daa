"""pipecat's OpenAI Realtime service in a pipeline of its own: two turns by voice, one interrupted.

python tests/clients/slow/pipecat_client.py http://127.0.0.1:8017 QUESTION_24K.pcm
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    ProposedUserStartedSpeakingFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineParams, PipelineTask
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService

SILENCE = bytes(2 * 24000 * 12 // 10)


class Listener(FrameProcessor):
    """Counts what the service tells."""

    def __init__(self) -> None:
        super().__init__()
        self.sound = self.stopped = self.spoken_to = 0
        self.errors: list[str] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            self.sound += len(frame.audio)
        elif isinstance(frame, TTSStoppedFrame):
            self.stopped += 1
        elif isinstance(frame, ProposedUserStartedSpeakingFrame):
            self.spoken_to += 1
        elif isinstance(frame, ErrorFrame):
            self.errors.append(str(frame.error))
        await self.push_frame(frame, direction)


async def main() -> None:
    url, question = sys.argv[1].replace("http", "ws", 1), Path(sys.argv[2]).read_bytes()
    service = OpenAIRealtimeLLMService(
        api_key="none",
        base_url=f"{url}/v1/realtime",
        settings=OpenAIRealtimeLLMService.Settings(model="ttt"),
    )
    listener = Listener()
    params = PipelineParams(audio_in_sample_rate=24000, audio_out_sample_rate=24000)
    task = PipelineTask(Pipeline([service, listener]), params=params)
    running = asyncio.create_task(PipelineRunner(handle_sigint=False).run(task))

    async def say() -> None:
        data = question + SILENCE
        for start in range(0, len(data), 4800):
            piece: Any = data[start : start + 4800]
            await task.queue_frame(InputAudioRawFrame(piece, 24000, 1))
            await asyncio.sleep(0.05)

    async def until(what: str, holds: Any) -> None:
        for _ in range(600):
            if holds():
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"never: {what}; {vars(listener)}")

    await asyncio.sleep(1.5)
    await say()
    await until("the first answer", lambda: listener.sound > 0)
    before = listener.sound
    await say()  # over the answer
    await until("the interruption", lambda: listener.spoken_to > 1)
    await until("the second answer", lambda: listener.sound > before)
    await until("the end of an answer", lambda: listener.stopped > 0)
    assert not listener.errors, listener.errors
    await task.queue_frame(EndFrame())
    await asyncio.wait_for(running, 20)
    print(
        f"pipecat: two turns by voice with an interruption, {listener.sound // 48000} s of sound",
        flush=True,
    )


async def within(seconds: float) -> None:
    """End at once: a pipeline that is cancelled may hang."""
    try:
        await asyncio.wait_for(main(), seconds)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


asyncio.run(within(120))
