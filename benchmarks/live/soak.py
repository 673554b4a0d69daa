"""An hour of conversation, faster than the clock: does the live assistant stay as it was?

    python -m benchmarks.live.soak [--minutes 60] [--seed 0] [--bundle DIR]

What a microphone hears in an hour is made up at random: questions with and without pauses, speech
over answers, coughs, noise, silence, a device that is lost, a conversation begun anew. Held: memory
that does not grow, a machine that listens again in the end, and a question that is answered as at
the beginning. Minutes are the microphone's. Needs espeak-ng and flite.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer

from benchmarks.live.voices import QUESTIONS, Audio, say
from ttt_ref.errors import exit_on_error
from ttt_runtime.audio.echo import RATE_HZ, HalfDuplex, Untouched
from ttt_runtime.audio.front_end import FrontEnd
from ttt_runtime.audio.playback import Playback
from ttt_runtime.audio.voice_activity import SileroDetector
from ttt_runtime.audio.wav_writer import pcm16
from ttt_runtime.cli.assistant_run import shipped_or
from ttt_runtime.dialogue.assistant import Assistant
from ttt_runtime.dialogue.live import LiveConversation
from ttt_runtime.dialogue.live_events import LiveEvent
from ttt_runtime.dialogue.turn_events import Phase
from ttt_runtime.dialogue.turn_settings import TurnSettings

_BLOCK: Final = 320
_VOICES: Final = ("espeak:en-us", "flite:slt", "espeak:en-gb+f2", "flite:kal16")
MOST_GROWTH_MB: Final = 20.0  # from a quarter of the time on


class Listener:
    """A conversation without a sound card; computing takes no time of the microphone's."""

    def __init__(self, assistant: Assistant, seed: int) -> None:
        self.random = random.Random(seed)
        self.noise = np.random.default_rng(seed)
        self.counts: Counter[str] = Counter()
        self.said: list[str] = []
        self.playback = Playback(RATE_HZ)
        echo = HalfDuplex() if seed % 2 else Untouched()
        front_end = FrontEnd(echo, SileroDetector())
        self.live = LiveConversation(
            assistant, front_end, self.playback, TurnSettings(), self._tell, seed=0
        )
        self.clips = [say(text, _VOICES[i % 4], RATE_HZ) for i, text in enumerate(QUESTIONS)]

    def _tell(self, event: LiveEvent) -> None:
        self.counts[event.kind] += 1
        if event.kind == "finished":
            self.said.append(str(event.fields["text"]))

    def hear(self, audio: Audio) -> None:
        """Let audio float32 [T] into the microphone."""
        audio = audio + self.noise.normal(0, 3e-4, len(audio))
        pcm = np.frombuffer(pcm16(audio.astype(np.float32)), np.int16)
        for begin in range(0, len(pcm) - _BLOCK + 1, _BLOCK):
            played = np.frombuffer(pcm16(self.playback.take(_BLOCK)), np.int16)
            self.live.block(pcm[begin : begin + _BLOCK], played)
            if self.live.phase in (Phase.THINKING, Phase.HELD, Phase.PLAYING):
                self.live.answerer.wait_idle(60.0)
                self.live.pump()

    def quiet(self, seconds: float) -> None:
        """Say nothing."""
        self.hear(np.zeros(round(seconds * RATE_HZ), np.float32))

    def ask(self, number: int) -> list[str]:
        """Ask a question in a new conversation; return what was answered."""
        self.live.reset()
        self.quiet(1.0)
        before = len(self.said)
        self.hear(self.clips[number])
        self.quiet(8.0)
        return self.said[before:]

    def act(self) -> None:
        """Do something at random."""
        clip = self.random.choice(self.clips)
        match self.random.randrange(9):
            case 0:
                self.hear(clip)
                self.quiet(self.random.uniform(0.5, 5))
            case 1:  # a pause within it
                cut = self.random.randrange(len(clip) // 4, 3 * len(clip) // 4)
                self.hear(clip[:cut])
                self.quiet(self.random.uniform(0.1, 1.2))
                self.hear(clip[cut:])
                self.quiet(3)
            case 2:  # over the answer
                self.hear(clip)
                self.quiet(self.random.uniform(0.3, 2.0))
                self.hear(self.random.choice(self.clips))
                self.quiet(3)
            case 3:  # a cough
                self.hear(self.noise.normal(0, 0.2, 1600).astype(np.float32))
                self.quiet(1)
            case 4:
                self.hear(self.noise.normal(0, 0.05, 5 * RATE_HZ).astype(np.float32))
            case 5:
                self.quiet(self.random.uniform(1, 10))
            case 6:  # the device goes, at any moment
                self.hear(clip[: self.random.randrange(len(clip))])
                self.live.device_lost()
                self.live.device_back()
            case 7:
                self.live.reset()
            case _:  # longer than any turn may be
                self.hear(np.concatenate(self.clips))
                self.quiet(4)


def rss_mb() -> float:
    """Return the memory of this process that lies in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def soak(assistant: Assistant, minutes: float, seed: int) -> dict[str, Any]:
    """Return what was found."""
    listener = Listener(assistant, seed)
    first = [listener.ask(number) for number in range(3)]
    memory: list[float] = []
    while listener.live.front_end.seconds < 60 * minutes:
        listener.act()
        memory.append(rss_mb())
    last = [listener.ask(number) for number in range(3)]
    listener.live.close()
    settled = memory[len(memory) // 4]
    return {
        "minutes": round(listener.live.front_end.seconds / 60, 1),
        "events": dict(sorted(listener.counts.items())),
        "answers": first,
        "answers unchanged": first == last and all(first),
        "phase in the end": listener.live.phase.value,
        "memory MB": [round(settled, 1), round(max(memory[-10:]), 1)],
        "memory holds": max(memory[-10:]) - settled <= MOST_GROWTH_MB,
    }


def main(
    minutes: Annotated[float, typer.Option(min=0.1)] = 60.0,
    seed: Annotated[int, typer.Option()] = 0,
    bundle: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Soak, print; exit code 1 if something did not hold."""
    found = soak(Assistant.from_bundle(shipped_or(bundle)), minutes, seed)
    for key, value in found.items():
        print(f"{key:<24}{value}")
    print(json.dumps(found))
    holds = found["answers unchanged"] and found["memory holds"]
    if not holds or found["phase in the end"] != Phase.LISTENING.value:
        raise SystemExit("something did not hold; see above")


if __name__ == "__main__":
    with exit_on_error():
        typer.run(main)
