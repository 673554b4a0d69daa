"""A loaded bundle that is asked the same question again and again, and each turn's times."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ttt_ref.config import GenerationConfig
from ttt_ref.errors import ConfigError
from ttt_runtime.audio.reader import Audio, read_question
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.codec.base import DecoderStream, SpeechDecoder, SpeechTokenizer
from ttt_runtime.codec.factory import load_codec
from ttt_runtime.decode.approximations import Approximations, Exactness
from ttt_runtime.decode.deadline import DeadlineSchedule
from ttt_runtime.decode.engine import SpeechEngine, both
from ttt_runtime.decode.events import DoneEvent, SpeechEvent
from ttt_runtime.dialogue.assistant import pick_preset
from ttt_runtime.dialogue.overlap import CancelEither, in_turn, overlapped
from ttt_runtime.dialogue.prompt import PromptBuilder
from ttt_runtime.dialogue.timeline import Timeline
from ttt_runtime.profiler.workload import (
    DEFAULT_FRAME_RATE_HZ,
    ScriptedEngine,
    TurnShape,
    question_audio,
    scripted_config,
)


@dataclass(frozen=True)
class ProfileOptions:
    """What to measure, and how.

    Attributes:
        bundle: the bundle's folder.
        repeats: turns that are measured.
        preset: generation preset; None takes the bundle's first.
        device: where to run.
        exactness: reference, exact or fast.
        threads: CPU threads; None takes all.
        shape: the scripted turn.
        question: a sound file to be answered instead of the scripted turn.
        max_seconds: longest question that is accepted.
        fast: approximations of exactness `fast`.
        overlap: model and codec in threads of their own.
        steps: passes a block, instead of the preset's.
        block: tokens a block, instead of the preset's.
        warm_up: turns after the first that are not measured.
        cold_starts: processes that are started to time a cold start.
        limits: measure the machine, count the work of each phase, and hold one against the other.
    """

    bundle: Path
    repeats: int = 10
    preset: str | None = None
    device: str = "cpu"
    exactness: Exactness = "exact"
    threads: int | None = None
    shape: TurnShape = field(default_factory=TurnShape)
    question: str | None = None
    max_seconds: float = 60.0
    fast: Approximations | None = None
    overlap: bool = False
    steps: int | None = None
    block: int | None = None
    warm_up: int = 1
    cold_starts: int = 0
    limits: bool = False

    def __post_init__(self) -> None:
        """Refuse counts that are none."""
        for name, least in (("repeats", 1), ("warm_up", 0), ("cold_starts", 0)):
            if not least <= getattr(self, name) <= 100_000:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected {least} .. 100000")


@dataclass(frozen=True)
class Turn:
    """One measured turn."""

    timeline: Timeline
    audio_seconds: float
    generated_tokens: int
    starved_ms: float = 0.0

    def figures(self) -> dict[str, float | None]:
        """Return the turn's figures (see `Timeline.figures`), with what depends on passes."""
        found = self.timeline.figures(self.audio_seconds)
        forwards = sum(
            len(self.timeline.phase_ms(phase)) for phase in ("prefill", "text", "block", "commit")
        )
        blocks = len(self.timeline.phase_ms("block"))
        seconds = self.audio_seconds
        found["forwards_a_second_of_audio"] = round(forwards / seconds, 3) if seconds else None
        found["passes_a_second_of_audio"] = round(blocks / seconds, 3) if seconds else None
        found["starved_ms"] = round(self.starved_ms, 3)
        return found


def generation_config(options: ProfileOptions, bundle: Bundle) -> GenerationConfig:
    """Return the preset with the options' block length and passes a block."""
    config = pick_preset(bundle, options.preset)
    if options.block is None and options.steps is None:
        return config
    block = config.block_length if options.block is None else options.block
    for name, value in (("steps", options.steps), ("block", options.block)):
        if value is not None and not 1 <= value <= 4096:
            raise ConfigError(f"{name} is {value}; expected 1 .. 4096")
    steps = config.steps_per_block() if options.steps is None else options.steps
    blocks = max(1, config.diffusion_gen_length // block)
    return dataclasses.replace(
        config,
        block_length=block,
        diffusion_gen_length=blocks * block,
        diffusion_steps=blocks * min(steps, block),
    )


class Bench:
    """See the module. Loading is part of the constructor."""

    def __init__(self, options: ProfileOptions) -> None:
        self.options = options
        self.bundle = Bundle.open(options.bundle)
        config = generation_config(options, self.bundle)
        kind = SpeechEngine if options.question else ScriptedEngine
        self.engine = kind.from_bundle(
            self.bundle,
            options.device,
            options.exactness,
            fast=options.fast,
            threads=options.threads,
        )
        self.config = config
        if isinstance(self.engine, ScriptedEngine):
            self.engine.shape = options.shape
            self.config = scripted_config(config, options.shape)
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
        self.audio = self._question()

    def _question(self) -> Audio | None:
        if self.tokenizer is None:
            return None
        rate_hz, options = self.tokenizer.sample_rate_hz, self.options
        if options.question:
            return read_question(
                options.question, self.tokenizer, max_seconds=options.max_seconds
            ).audio
        return question_audio(options.shape.question_seconds, rate_hz)

    def turn(self) -> Turn:
        """Hear the question and answer it, from an empty cache."""
        self.engine.reset()
        timeline = Timeline()
        prompt = self._prompt(timeline)
        voice = _Voice(self, timeline)
        stop = CancelEither(None)
        events = self.engine.generate(
            prompt,
            self.config,
            cancel=stop,
            observer=both(timeline.observe, voice.playback.observe),
            plan_passes=voice.playback.plan if self.engine.wants_deadline else None,
        )
        items = (
            overlapped(events, voice.decode, stop)
            if self.options.overlap
            else in_turn(events, voice.decode)
        )
        tokens = sum(len(item.ids) for item in items if not isinstance(item, np.ndarray))
        timeline.underruns = voice.playback.underruns
        timeline.finish()
        return Turn(timeline, voice.seconds, tokens, voice.playback.starved_seconds * 1e3)

    def _prompt(self, timeline: Timeline) -> list[int]:
        if self.tokenizer is not None and self.audio is not None:
            with timeline.phase("encode", f"{len(self.audio)} samples"):
                codes = self.tokenizer.encode(self.audio).tolist()
        else:
            count = round(self.options.shape.question_seconds * DEFAULT_FRAME_RATE_HZ)
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


class _Voice:
    """Decodes one answer, and follows how it would play from its first sample on."""

    def __init__(self, bench: Bench, timeline: Timeline) -> None:
        self._layout = bench.engine.layout
        self._timeline = timeline
        self._stream: DecoderStream | None = None
        self._samples_a_second = DEFAULT_FRAME_RATE_HZ  # without a codec: codes a second
        tokens_a_second = DEFAULT_FRAME_RATE_HZ
        if bench.decoder is not None and bench.tokenizer is not None:
            self._stream = bench.decoder.stream()
            self._samples_a_second = bench.decoder.sample_rate_hz
            tokens_a_second = bench.tokenizer.frame_rate_hz
        self.playback = DeadlineSchedule(tokens_a_second)
        self._samples = 0

    @property
    def seconds(self) -> float:
        """Length of the answer so far."""
        return self._samples / self._samples_a_second

    def decode(self, event: SpeechEvent | DoneEvent) -> Sequence[Audio]:
        """Decode a block, or the rest; a `overlap.Decode`."""
        layout = self._layout
        codes = [layout.id_to_code(i) for i in event.ids if layout.is_code(i)]
        if self._stream is None:
            self._made(len(codes))
            return ()
        last = isinstance(event, DoneEvent)
        if not codes and not last:
            return ()
        with self._timeline.phase("decode", "finish" if last else f"{len(codes)} codes"):
            audio = self._stream.finish() if last else self._stream.push(np.array(codes, np.int64))
        self.playback.decoded(self._timeline.last_ms("decode") / 1e3)
        self._made(len(audio))
        return (audio,) if len(audio) else ()

    def _made(self, samples: int) -> None:
        if samples:
            self._timeline.mark_first_audio()
            self._samples += samples
            self.playback.queue(samples / self._samples_a_second)


def describe(options: ProfileOptions) -> dict[str, Any]:
    """Return the options that decide what a figure means, for reports."""
    return {
        "device": options.device,
        "exactness": options.exactness,
        "fast": None if options.fast is None else dataclasses.asdict(options.fast),
        "workload": "question" if options.question else "scripted",
        "shape": dataclasses.asdict(options.shape),
        "overlap": options.overlap,
        "threads": options.threads,
    }
