"""OpenAI's agents for Python: two turns by voice, the first interrupted.

python tests/clients/slow/agents_python.py http://127.0.0.1:8017 QUESTION_24K.pcm
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from agents.realtime import RealtimeAgent, RealtimeRunner

SILENCE = bytes(2 * 24000 * 12 // 10)


async def main() -> None:
    url, question = sys.argv[1].replace("http", "ws", 1), Path(sys.argv[2]).read_bytes()
    config = {"url": f"{url}/v1/realtime?model=ttt", "api_key": "none",
              "initial_model_settings": {"turn_detection": {"type": "semantic_vad"}}}  # fmt: skip
    runner = RealtimeRunner(RealtimeAgent(name="ttt", instructions=""))
    sound = interruptions = finished = 0
    said: list[str] = []
    async with await runner.run(model_config=config) as session:

        async def say() -> None:
            data = question + SILENCE
            for start in range(0, len(data), 4800):
                await session.send_audio(data[start : start + 4800])
                await asyncio.sleep(0.02)

        talking = asyncio.create_task(say())
        async for event in session:
            if event.type == "error":
                raise AssertionError(event.error)
            if event.type == "audio":
                sound += len(event.audio.data)
                if sound and talking.done() and not interruptions and finished < 2:
                    talking = asyncio.create_task(say())
            elif event.type == "audio_interrupted":
                interruptions += 1
            elif event.type == "history_updated":
                answers = [i for i in event.history if getattr(i, "role", "") == "assistant"]
                said = [part.transcript or "" for item in answers for part in item.content]
            elif event.type == "agent_end":
                finished += 1
                if finished >= 2 and interruptions:
                    break
    assert sound, "no sound came"
    assert said, "no answer is in the history"
    print(f"openai-agents (Python): two turns by voice, {interruptions} interruption(s); {said}")


asyncio.run(asyncio.wait_for(main(), 90))
