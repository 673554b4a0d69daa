"""LiveKit's realtime model of the OpenAI plugin: two turns by voice, the first interrupted.

python tests/clients/slow/livekit_client.py http://127.0.0.1:8017 QUESTION_24K.pcm
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from livekit import rtc
from livekit.plugins import openai

SILENCE = bytes(2 * 24000 * 12 // 10)


async def main() -> None:
    url, question = sys.argv[1], Path(sys.argv[2]).read_bytes()
    model = openai.realtime.RealtimeModel(base_url=f"{url}/v1", api_key="none", model="ttt")
    session = model.session()
    generations: list[Any] = []
    counted = {"sound": 0, "started": 0}
    errors: list[str] = []
    texts: list[str] = []
    tasks: set[asyncio.Task[None]] = set()

    async def listen(event: Any) -> None:
        async for message in event.message_stream:

            async def sound(message: Any = message) -> None:
                async for frame in message.audio_stream:
                    counted["sound"] += frame.samples_per_channel

            async def text(message: Any = message) -> None:
                said = ""
                async for piece in message.text_stream:
                    said += piece
                texts.append(said)

            await asyncio.gather(sound(), text())

    def begun(event: Any) -> None:
        generations.append(event)
        task = asyncio.create_task(listen(event))
        tasks.add(task)

    def count(name: str) -> Any:
        def add(event: Any) -> None:
            counted[name] += 1

        return add

    session.on("generation_created", begun)
    session.on("input_speech_started", count("started"))
    session.on("error", lambda event: errors.append(str(event.error)))

    async def say() -> None:
        data = question + SILENCE
        for start in range(0, len(data), 4800):
            piece = data[start : start + 4800]
            session.push_audio(rtc.AudioFrame(piece, 24000, 1, len(piece) // 2))
            await asyncio.sleep(0.02)

    async def until(what: str, holds: Any) -> None:
        for _ in range(600):
            if holds():
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"never: {what}; {counted} {texts}")

    await asyncio.sleep(1.0)
    await say()
    await until("the first answer", lambda: counted["sound"] > 0)
    started = counted["started"]
    talking = asyncio.create_task(say())  # over the answer
    await until("speech over the answer", lambda: counted["started"] > started)
    session.interrupt()
    if generations[0].response_id:
        session.truncate(
            message_id=next(item.id for item in session.chat_ctx.items if item.role == "assistant"),
            modalities=["audio", "text"],
            audio_end_ms=300,
        )
    await talking
    await until("the second answer", lambda: len(generations) >= 2 and len(texts) >= 2)
    await asyncio.sleep(1.0)  # the answer's last events
    context = session.chat_ctx.copy()
    context.add_message(role="user", content="what is the opposite of hot")
    await session.update_chat_ctx(context)
    reply = session.generate_reply()
    await asyncio.wait_for(reply, 10)  # times out unless the response's metadata come back
    await until("the reply", lambda: len(texts) >= 3)
    assert not errors, errors
    await session.aclose()
    seconds = counted["sound"] // 24000
    print(
        f"livekit: two turns by voice with an interruption, a reply asked for; {seconds} s; {texts}"
    )


asyncio.run(asyncio.wait_for(main(), 120))
