"""The measurements in the room, each from one recording of loudspeaker and air."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import soundfile

from benchmarks.live.assistant import LiveAssistant
from benchmarks.live.room import RATE_HZ, Audio, Recorder, Room
from benchmarks.live.voices import QUESTIONS, say, spoken

AUDIBLE: Final = 0.004  # -48 dB of full scale, at the loudspeaker
_VOICES: Final = ("espeak:en-us", "flite:slt", "espeak:en-gb+f2", "flite:kal16")


def measure(name: str, count: int, bundle: Path | None, keep: Path | None) -> dict[str, Any]:
    """Run one measurement in a room of its own."""
    with Room() as room, Recorder(room) as recorder:
        options = ["--mode", "push_to_talk"] if name == "push" else []
        with LiveAssistant(room, bundle, *options) as assistant:
            found = MEASUREMENTS[name](room, recorder, assistant, count)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        soundfile.write(keep / f"{name}.flac", recorder.audio(), RATE_HZ)
        lines = [json.dumps(event) for event in assistant.events]
        (keep / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return found


def _clips(count: int) -> list[Audio]:
    return [
        say(QUESTIONS[i % len(QUESTIONS)], _VOICES[i % len(_VOICES)], RATE_HZ) for i in range(count)
    ]


def _find(air: Audio, clip: Audio) -> int:
    """Return where in the room's air a clip begins, by correlation."""
    size = 1 << (len(air) + len(clip)).bit_length()
    product = np.fft.rfft(air, size) * np.conj(np.fft.rfft(clip, size))
    return int(np.argmax(np.fft.irfft(product, size)[: max(len(air) - len(clip), 1)]))


def _percentiles(name: str, values: list[float]) -> dict[str, Any]:
    if not values:
        return {f"{name} p50 ms": None, f"{name} p90 ms": None}
    return {
        f"{name} p50 ms": round(float(np.percentile(values, 50)), 1),
        f"{name} p90 ms": round(float(np.percentile(values, 90)), 1),
    }


def hands_free(
    room: Room, recorder: Recorder, assistant: LiveAssistant, count: int
) -> dict[str, Any]:
    """Ask, wait for the answer's end, ask again."""
    latencies, timers, visible, spans = [], [], [], []
    lost = split = 0
    for clip in _clips(count):
        time.sleep(0.7)
        assistant.forget_events()
        start = recorder.samples
        room.play(clip)
        turn = assistant.wait_for("turn", 8)
        if turn is None or assistant.wait_for("finished", 10) is None:
            lost += 1
            continue
        time.sleep(0.3)
        both = recorder.audio(start)
        begin = _find(both[:, 1], clip)
        last = begin + spoken(clip)[1]
        sounding = np.flatnonzero(np.abs(both[:, 0]) > AUDIBLE)
        split += bool(len(sounding) and sounding[0] < last)
        after = sounding[sounding >= last]
        latencies.append((after[0] - last) / RATE_HZ * 1e3)
        timers.append(turn["timer_ms"])
        visible.append(turn["visible_ms"])
        spans.append(turn["why"])
    return {
        "turns": len(latencies),
        "lost": lost,
        "answered before their end": split,
        **_percentiles("silence to sound", latencies),
        **_percentiles("of it timer", timers),
        **_percentiles("of it computing", visible),
        "ended by": {why: spans.count(why) for why in sorted(set(spans))},
        "all ms": [round(value, 1) for value in latencies],
    }


def push(room: Room, recorder: Recorder, assistant: LiveAssistant, count: int) -> dict[str, Any]:
    """Hold the key while speaking and let it go 0 to 0.3 s later."""
    latencies: list[float] = []
    lost = 0
    for number, clip in enumerate(_clips(count)):
        time.sleep(0.7)
        assistant.forget_events()
        assistant.write("down")
        time.sleep(0.2)
        room.play(clip)  # returns when the last sample was played
        time.sleep(0.1 * (number % 4))
        released = assistant.write("up")
        if assistant.wait_for("turn", 8) is None or assistant.wait_for("finished", 10) is None:
            lost += 1
            continue
        at = recorder.sample_of(released)
        sounding = np.flatnonzero(np.abs(recorder.audio(at)[:, 0]) > AUDIBLE)
        latencies.append(sounding[0] / RATE_HZ * 1e3)
    return {
        "turns": len(latencies),
        "lost": lost,
        **_percentiles("key to sound", latencies),
        "all ms": [round(value, 1) for value in latencies],
    }


def barge_in(
    room: Room, recorder: Recorder, assistant: LiveAssistant, count: int
) -> dict[str, Any]:
    """Ask, let the answer speak for a second or so, speak over it."""
    latencies: list[float] = []
    missed = heard_second = 0
    clips = _clips(2 * count)
    for number in range(count):
        time.sleep(0.7)
        assistant.forget_events()
        room.play(clips[2 * number])
        if assistant.wait_for("turn", 8) is None:
            missed += 1
            continue
        time.sleep(0.7 + 0.1 * (number % 3))
        start = recorder.samples
        over = clips[2 * number + 1]
        room.play(over)
        interrupted = assistant.wait_for("interrupted", 3)
        answered = assistant.wait_for("turn", 8) is not None
        assistant.wait_for("finished", 10)
        if interrupted is None:
            missed += 1
            continue
        heard_second += answered
        both = recorder.audio(start)
        first = _find(both[:, 1], over) + spoken(over)[0]
        end = first + len(over)  # the second answer cannot begin before
        before = np.flatnonzero(np.abs(both[first:end, 0]) > AUDIBLE)
        latencies.append(before[-1] / RATE_HZ * 1e3 if len(before) else 0.0)
    return {
        "interruptions": len(latencies),
        "missed": missed,
        "second questions answered": heard_second,
        **_percentiles("speech to silence", latencies),
        "all ms": [round(value, 1) for value in latencies],
    }


def idle(room: Room, recorder: Recorder, assistant: LiveAssistant, count: int) -> dict[str, Any]:
    """Listen to a quiet room for half a minute."""
    time.sleep(2)
    began, before = time.monotonic(), assistant.cpu_seconds()
    time.sleep(30)
    share = (assistant.cpu_seconds() - before) / (time.monotonic() - began)
    return {"share of one core %": round(100 * share, 2)}


def unplugged(
    room: Room, recorder: Recorder, assistant: LiveAssistant, count: int
) -> dict[str, Any]:
    """Take the devices away for three seconds, then ask."""
    time.sleep(1)
    room.unload("microphone")
    room.unload("speaker")
    began = time.monotonic()
    lost = assistant.wait_for("device", 10, is_there=False)
    noticed = time.monotonic() - began
    time.sleep(3)
    room.plug()
    began = time.monotonic()
    back = assistant.wait_for("device", 20, is_there=True)
    reopened = time.monotonic() - began
    time.sleep(1)
    [clip] = _clips(1)
    room.play(clip)
    answered = assistant.wait_for("finished", 20) is not None
    return {
        "loss noticed after s": round(noticed, 2) if lost else None,
        "open again after s": round(reopened, 2) if back else None,
        "answers afterwards": answered,
    }


Measurement = Callable[[Room, Recorder, LiveAssistant, int], dict[str, Any]]
MEASUREMENTS: Final[dict[str, Measurement]] = {
    "hands-free": hands_free,
    "push": push,
    "barge-in": barge_in,
    "idle": idle,
    "unplugged": unplugged,
}
