"""Measure turn-taking in simulated rooms, faster than the clock.

    python -m benchmarks.live.simulated [--only echo|pauses] [--minutes 10] [--bundle DIR]

echo     false interruptions by the assistant's own voice over seven settings of the room
pauses   45 utterances with a pause: how many were taken for their end, how many of them were
         answered aloud before the user went on

Answers cost no time here: what is measured is what turn-taking decides. Needs espeak-ng.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from scipy.signal import fftconvolve, resample

from benchmarks.live.voices import ESPEAK_VOICES, PAUSED, QUESTIONS, Audio, say
from ttt_ref.errors import exit_on_error
from ttt_runtime.audio.echo import RATE_HZ, Untouched, WebRtcProcessor
from ttt_runtime.audio.front_end import FrontEnd
from ttt_runtime.audio.playback import Playback
from ttt_runtime.audio.voice_activity import SileroDetector
from ttt_runtime.audio.wav_writer import pcm16
from ttt_runtime.cli.assistant_run import shipped_or
from ttt_runtime.dialogue.assistant import Assistant
from ttt_runtime.dialogue.live import LiveConversation
from ttt_runtime.dialogue.live_events import LiveEvent
from ttt_runtime.dialogue.turn_events import Duck, Interrupt, Phase, Reopen
from ttt_runtime.dialogue.turn_settings import TurnSettings
from ttt_runtime.dialogue.turn_taking import TurnTaking

PAUSES_S: Final = (0.25, 0.3, 0.34)
_BLOCK: Final = 320


@dataclass(frozen=True)
class RoomSetting:
    """Delay and level of the echo, drift of the clocks, noise of the room."""

    delay_ms: int
    echo_db: float
    drift_ppm: float = 0.0


SETTINGS: Final = (
    RoomSetting(20, -20),
    RoomSetting(60, -12),
    RoomSetting(120, -6),
    RoomSetting(120, 0),
    RoomSetting(250, -6),
    RoomSetting(60, 6),
    RoomSetting(120, -6, 100.0),
)


def _pcm(audio: Audio) -> np.ndarray:
    return np.frombuffer(pcm16(audio), np.int16)


def _echo_of(played: Audio, setting: RoomSetting, random: np.random.Generator) -> Audio:
    tail = random.normal(0, 1, 4000) * np.exp(-np.arange(4000) / 900.0)
    tail[0] = 8.0
    tail /= float(np.sqrt(np.sum(np.square(tail))))
    back = fftconvolve(played, tail)[: len(played)] * 10 ** (setting.echo_db / 20)
    if setting.drift_ppm:
        back = resample(back, round(len(back) * (1 + setting.drift_ppm * 1e-6)))[: len(played)]
    late = round(setting.delay_ms / 1000 * RATE_HZ)
    back = np.concatenate([np.zeros(late), back])[: len(played)]
    back = np.pad(back, (0, len(played) - len(back)))
    noise = random.normal(0, 5e-4, len(played))
    heard: Audio = (back + noise).astype(np.float32)
    return np.clip(heard, -1.0, 1.0)


def echo(minutes: float) -> dict[str, Any]:
    """Play speech into each room for its share of the minutes, with nobody there."""
    random = np.random.default_rng(7)
    voices = [say(text, f"espeak:{ESPEAK_VOICES[0]}", RATE_HZ) for text in QUESTIONS]
    user = say("how many months are in a year", f"espeak:{ESPEAK_VOICES[1]}", RATE_HZ)
    interruptions, ducked, seconds, found = [], 0, 0.0, 0
    for setting in SETTINGS:
        share = round(minutes * 60 / len(SETTINGS) * RATE_HZ)
        pieces: list[Audio] = []
        while sum(map(len, pieces)) < share:
            pieces += [voices[int(random.integers(len(voices)))], np.zeros(3200, np.float32)]
        played = np.concatenate(pieces)[:share]
        mic = _echo_of(played, setting, random)
        mic[-len(user) :] += user  # at the very end somebody does speak
        front_end = FrontEnd(WebRtcProcessor(), SileroDetector())
        frames = front_end.push(_pcm(mic), _pcm(played))
        user_begins_s = (share - len(user)) / RATE_HZ
        machine = _playing_machine()
        count, is_found = 0, False
        for frame in frames:
            for action in machine.frame(frame.voice):
                is_early = frame.voice.end_s <= user_begins_s
                ducked += is_early and isinstance(action, Duck)
                if isinstance(action, Interrupt | Reopen):
                    count += is_early
                    is_found |= not is_early
                    machine = _playing_machine()
        interruptions.append(count)
        found += is_found
        seconds += share / RATE_HZ
    return {
        "minutes of playback": round(seconds / 60, 1),
        "false interruptions": sum(interruptions),
        "by setting": interruptions,
        "ducked for a moment": ducked,
        "rooms in which a user was heard over it": found,
    }


def _playing_machine() -> TurnTaking:
    """Return a machine whose answer plays for ever."""
    machine = TurnTaking(TurnSettings(mode="push_to_talk", longest_answer_s=3599.0))
    machine.key_down(0.0)
    machine.key_up(0.5)
    machine.sound(machine.ticket)
    machine.settings = TurnSettings(longest_answer_s=3599.0, reopen_s=0.0)
    assert machine.phase is Phase.PLAYING
    return machine


def pauses(bundle: Path | None) -> dict[str, Any]:
    """Say 45 utterances with a pause; the shipped model reads whether they are complete."""
    assistant = Assistant.from_bundle(shipped_or(bundle))
    taken = aloud = 0
    waits: list[float] = []  # from an utterance's last sample to its answer
    for text_number, (first, second) in enumerate(PAUSED):
        for pause_s in PAUSES_S:
            voice = f"espeak:{ESPEAK_VOICES[text_number % len(ESPEAK_VOICES)]}"
            parts = [say(first, voice, RATE_HZ), say(second, voice, RATE_HZ)]
            released = _releases(assistant, parts, pause_s)
            end_s = 0.5 + len(parts[0]) / RATE_HZ
            over_s = end_s + pause_s + len(parts[1]) / RATE_HZ
            taken += any(at < over_s for at in released)
            waits += [at - over_s for at in released if at >= over_s][:1]
            aloud += any(at < end_s + pause_s for at in released)
    return {
        "utterances": len(PAUSED) * len(PAUSES_S),
        "pauses taken for the end": taken,
        "answered aloud before the user went on": aloud,
        "answered s after the last sample, p50": round(float(np.percentile(waits, 50)), 3),
        "answered s after the last sample, p90": round(float(np.percentile(waits, 90)), 3),
    }


def _releases(assistant: Assistant, parts: list[Audio], pause_s: float) -> list[float]:
    """Return the microphone's times at which an answer began to sound."""
    random = np.random.default_rng(1)
    gaps = [0.5, pause_s, 1.4]
    pieces = [np.zeros(round(gaps[0] * RATE_HZ))]
    for part, gap in zip(parts, gaps[1:], strict=True):
        pieces += [part, np.zeros(round(gap * RATE_HZ))]
    sound = np.concatenate(pieces)
    sound = (sound + random.normal(0, 3e-4, len(sound))).astype(np.float32)
    events: list[LiveEvent] = []
    live = LiveConversation(
        assistant,
        FrontEnd(Untouched(), SileroDetector()),
        Playback(RATE_HZ),
        TurnSettings(),
        events.append,
    )
    pcm = _pcm(sound)
    for begin in range(0, len(pcm) - _BLOCK + 1, _BLOCK):
        live.block(pcm[begin : begin + _BLOCK], np.zeros(_BLOCK, np.int16))
        if live.phase is Phase.THINKING:
            live.answerer.wait_idle(60.0)
            live.pump()
    live.close()
    return [e.at_s for e in events if e.kind == "state" and e.fields["state"] == "playing"]


def main(
    only: Annotated[str | None, typer.Option(help="echo or pauses")] = None,
    minutes: Annotated[float, typer.Option(min=0.5)] = 10.0,
    bundle: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Measure, print."""
    found: dict[str, Any] = {}
    if only in (None, "echo"):
        found["echo"] = echo(minutes)
    if only in (None, "pauses"):
        found["pauses"] = pauses(bundle)
    for name, figures in found.items():
        for key, value in figures.items():
            print(f"{name:<10}{key:<44}{value}")
    print(json.dumps(found))


if __name__ == "__main__":
    with exit_on_error():
        typer.run(main)
