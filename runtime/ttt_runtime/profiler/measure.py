"""Run turns and take their times: the first one cold, the others warm."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ttt_ref.config import GenerationConfig
from ttt_runtime.assistant import pick_preset
from ttt_runtime.audio import read_audio
from ttt_runtime.bundle import Bundle
from ttt_runtime.chooser import Exactness
from ttt_runtime.codec.base import SpeechDecoder, SpeechTokenizer
from ttt_runtime.codec.factory import load_codec
from ttt_runtime.deadline import DeadlineSchedule
from ttt_runtime.engine import SpeechEngine
from ttt_runtime.events import SpeechEvent
from ttt_runtime.fast import FastOptions
from ttt_runtime.profiler.workload import (
    DEFAULT_FRAME_RATE_HZ,
    ScriptedEngine,
    TurnShape,
    question_audio,
    scripted_config,
)
from ttt_runtime.prompt import PromptBuilder
from ttt_runtime.session import SessionSettings
from ttt_runtime.timing import Timeline

Progress = Callable[[str], None]


@dataclass(frozen=True)
class ProfileOptions:
    """What to measure. `question` is a sound file to be answered instead of the scripted turn."""

    bundle: Path
    repeats: int = 10
    preset: str | None = None
    device: str = "cpu"
    exactness: Exactness = "exact"
    threads: int | None = None
    shape: TurnShape = field(default_factory=TurnShape)
    question: str | None = None
    max_seconds: float = 60.0
    fast: FastOptions | None = None


@dataclass(frozen=True)
class Turn:
    """One measured turn."""

    timeline: Timeline
    audio_seconds: float
    generated_tokens: int


@dataclass(frozen=True)
class Profile:
    """What was measured, and on what."""

    options: ProfileOptions
    config: GenerationConfig
    bundle: Bundle
    load_ms: float
    cold: Turn
    warm: list[Turn]
    rss_loaded_bytes: int
    rss_peak_bytes: int
    machine: dict[str, Any]


class _Bench:
    """A loaded bundle that can be asked the same question again and again."""

    def __init__(self, options: ProfileOptions) -> None:
        self.bundle = Bundle.open(options.bundle)
        preset = pick_preset(self.bundle, options.preset)
        kind = SpeechEngine if options.question else ScriptedEngine
        self.engine = kind.from_bundle(
            self.bundle,
            options.device,
            options.exactness,
            fast=options.fast,
            threads=options.threads,
        )
        self.config = preset
        if isinstance(self.engine, ScriptedEngine):
            self.engine.shape = options.shape
            self.config = scripted_config(preset, options.shape)
        self.tokenizer: SpeechTokenizer | None = None
        self.decoder: SpeechDecoder | None = None
        if self.bundle.config.codec is not None:
            self.tokenizer, self.decoder = load_codec(
                self.bundle, options.device, threads=options.threads
            )
        self.prompts: PromptBuilder | None = None
        if options.question:
            self.prompts = PromptBuilder.from_bundle(self.bundle)
            if self.tokenizer is None:
                load_codec(self.bundle)  # raises: a question needs a codec
        self._options = options
        self.audio = self._question()

    def _question(self) -> np.ndarray[Any, np.dtype[np.float32]] | None:
        if self.tokenizer is None:
            return None
        rate_hz, options = self.tokenizer.sample_rate_hz, self._options
        if options.question:
            return read_audio(options.question, rate_hz, max_seconds=options.max_seconds).audio
        return question_audio(options.shape.question_seconds, rate_hz)

    def _playback(self) -> DeadlineSchedule:
        if self.tokenizer is None:
            return DeadlineSchedule(DEFAULT_FRAME_RATE_HZ)
        return DeadlineSchedule(self.tokenizer.frame_rate_hz)

    def turn(self) -> Turn:
        """Hear the question and answer it, from an empty cache."""
        self.engine.reset()
        layout = self.engine.layout
        timeline = Timeline()
        prompt = self._prompt(timeline)
        stream = None if self.decoder is None else self.decoder.stream()
        samples = codes_made = tokens = 0
        playback = self._playback()
        deadline = playback if self.engine.wants_deadline else None
        for event in self.engine.generate(
            prompt, self.config, observer=timeline.observe, deadline=deadline
        ):
            tokens += len(event.ids)
            if isinstance(event, SpeechEvent):
                codes = [layout.id_to_code(i) for i in event.ids if layout.is_code(i)]
                codes_made += len(codes)
                if stream is None:
                    timeline.mark_first_audio()  # without a codec: the first codes
                    playback.queue(len(codes) / DEFAULT_FRAME_RATE_HZ)
                    continue
                with timeline.phase("decode"):
                    made = len(stream.push(np.array(codes, dtype=np.int64)))
                samples += made
                playback.decoded(timeline.slices[-1].ms / 1e3)
                if made and self.decoder is not None:
                    playback.queue(made / self.decoder.sample_rate_hz)
                if samples:
                    timeline.mark_first_audio()
        if stream is not None:
            with timeline.phase("decode"):
                samples += len(stream.finish())
            if samples:
                timeline.mark_first_audio()
        timeline.underruns = playback.underruns
        timeline.finish()
        if self.decoder is None:
            return Turn(timeline, codes_made / DEFAULT_FRAME_RATE_HZ, tokens)
        return Turn(timeline, samples / self.decoder.sample_rate_hz, tokens)

    def _prompt(self, timeline: Timeline) -> list[int]:
        if self.tokenizer is not None and self.audio is not None:
            with timeline.phase("encode"):
                codes = self.tokenizer.encode(self.audio).tolist()
        else:
            count = round(self._options.shape.question_seconds * DEFAULT_FRAME_RATE_HZ)
            codes = [i * 7919 % self.engine.layout.num_codes for i in range(max(count, 1))]
        if self.prompts is not None:
            return self.prompts.conversation("answer") + self.prompts.user_turn(
                self.prompts.speech(codes)
            )
        # The shape of the chat template, whatever the tokenizer makes of its words.
        layout = self.engine.layout
        start, end = layout.im_start_id, layout.im_end_id
        ids = [layout.code_to_id(code) for code in codes]
        speech = [layout.begin_of_audio_id, *ids, layout.end_of_audio_id]
        return [start, 0, 0, 0, end, 0, start, 0, 0, *speech, end, 0, start, 0, 0]


def measure(options: ProfileOptions, progress: Progress = lambda _: None) -> Profile:
    """Load the bundle and run one cold and `repeats` warm turns."""
    progress(f"loading {options.bundle}")
    begin = time.perf_counter()
    bench = _Bench(options)
    load_ms = (time.perf_counter() - begin) * 1e3
    loaded = _rss_bytes()
    progress("first turn")
    cold = bench.turn()
    warm = []
    for number in range(options.repeats):
        progress(f"turn {number + 1} of {options.repeats}")
        warm.append(bench.turn())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak = max(peak, loaded)  # the kernel's two counters differ by some pages
    settings = SessionSettings(options.device, options.threads)
    machine = describe_machine(settings.thread_count)
    return Profile(options, bench.config, bench.bundle, load_ms, cold, warm, loaded, peak, machine)


def _rss_bytes() -> int:
    """Return the resident memory of this process (0 where /proc does not tell)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * resource.getpagesize()


def describe_machine(threads: int) -> dict[str, Any]:
    """Return what a reader must know to compare figures."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    packages = {}
    for name in ("ttt-edge", "onnxruntime", "onnxruntime-gpu", "numpy"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "threads": threads,
        "load_average": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": packages,
    }
