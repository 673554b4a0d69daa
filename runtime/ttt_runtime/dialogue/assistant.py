"""From sound to sound: hear a question, answer in text and speech as it comes.

audio -> codes -> prompt ids -> engine events -> text and codes -> audio
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Final

import numpy as np

from ttt_ref.arguments import seconds, token_ids
from ttt_ref.config import GenerationConfig
from ttt_ref.errors import ConfigError
from ttt_runtime.audio.input_chain import InputChain, Prepared
from ttt_runtime.audio.input_settings import InputSettings
from ttt_runtime.audio.reader import Audio, is_silent
from ttt_runtime.bundle.folder import Bundle, Verify
from ttt_runtime.codec.base import SpeechDecoder, SpeechTokenizer
from ttt_runtime.codec.factory import check_codec, load_codec
from ttt_runtime.decode.approximations import Approximations, Exactness
from ttt_runtime.decode.deadline import DeadlineSchedule
from ttt_runtime.decode.engine import Observer, SpeechEngine, both
from ttt_runtime.decode.events import DoneEvent, DoneReason, SpeechEvent, TextEvent
from ttt_runtime.dialogue.answer_voice import AnswerVoice
from ttt_runtime.dialogue.arguments import check_audio, check_turn, text_of
from ttt_runtime.dialogue.barge_in import Heard, cut_answer, tokens_heard
from ttt_runtime.dialogue.history import HistoryPolicy, drop_oldest, room_for_history
from ttt_runtime.dialogue.overlap import CancelEither, Decode, in_turn, overlapped
from ttt_runtime.dialogue.prompt import PromptBuilder, Task
from ttt_runtime.dialogue.runaway import RunawayGuard, end_note, watched, words_not_spoken
from ttt_runtime.dialogue.text_stream import TextStream, least_of
from ttt_runtime.dialogue.timeline import Timeline

HEARD_NOTHING = "I heard nothing."
# Ids of a turn beside its speech, with room to spare: headers, system text, tags.
TURN_TOKENS: Final = 64


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text that became final, to be appended to what came before.

    `probability`: the least of its tokens', where the engine tells it.
    """

    text: str
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class AudioPart:
    """Audio float32 [T] of the answer that became final."""

    audio: Audio


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished turn; the last part.

    Attributes:
        task: answer, transcribe, speak, ask or chat.
        heard: what the model says that it heard ("" if the model does not write it down).
        text: the answer's text.
        audio_seconds: length of the spoken answer.
        reason: why it ended (see `events.DoneReason`), or `silence`.
        history: ids of the whole conversation so far, to be given with the next turn.
        timeline: what took how long.
        prompt_tokens: where in `history` this answer begins.
        notes: what a user should know of how this turn was made, a line each.
    """

    task: Task
    heard: str
    text: str
    audio_seconds: float
    reason: DoneReason | str
    history: tuple[int, ...]
    timeline: Timeline
    prompt_tokens: int
    notes: tuple[str, ...] = ()


Part = TextPart | AudioPart | Reply


class Assistant:
    """An engine, a codec and the prompts between them.

    Args:
        engine: the model.
        prompts: the chat template.
        tokenizer: audio to codes; None for a bundle that only speaks.
        decoder: codes to audio; None answers in text only.
        config: generation options.
        overlap: run model and codec in threads of their own; the same ids and audio.
        input_chain: prepares recordings for the tokenizer; None hears them as they are.
        history_policy: what becomes of a conversation that is longer than the cache.
    """

    def __init__(
        self,
        engine: SpeechEngine,
        prompts: PromptBuilder,
        tokenizer: SpeechTokenizer | None,
        decoder: SpeechDecoder | None,
        config: GenerationConfig,
        *,
        overlap: bool = False,
        input_chain: InputChain | None = None,
        history_policy: HistoryPolicy = "drop_oldest",
    ) -> None:
        self.engine = engine
        self.prompts = prompts
        self.tokenizer = tokenizer
        self.decoder = decoder
        self.config = config
        self.overlap = overlap
        self.input_chain = input_chain
        self.history_policy: HistoryPolicy = history_policy
        self.stops_runaway = True  # see `runaway`; not what a measurement of speed wants

    @classmethod
    def from_bundle(
        cls,
        path: str | PathLike[str],
        device: str = "cpu",
        exactness: Exactness = "exact",
        *,
        preset: str | None = None,
        fast: Approximations | None = None,
        threads: int | None = None,
        verify: Verify = "auto",
        overlap: bool = False,
        interleaved: bool = False,
    ) -> Assistant:
        """Load model, codec and prompts of a bundle.

        Args:
            path, device, exactness, fast, threads, verify: see `SpeechEngine.from_bundle`.
            preset: generation options by name; None takes the bundle's first.
            overlap: see the class.
            interleaved: turns may take turns, see `SpeechEngine`.
        """
        bundle = Bundle.open(path, verify)
        config = pick_preset(bundle, preset)
        settings = InputSettings.of_codec(bundle.config.codec)
        if bundle.config.codec is not None:
            check_codec(bundle)  # before minutes of loading
        engine = SpeechEngine.from_bundle(
            bundle, device, exactness, fast=fast, threads=threads, verify=verify
        )
        engine.interleaved = interleaved
        prompts = PromptBuilder.from_bundle(bundle)
        tokenizer, decoder = load_codec(bundle, device, threads=threads)
        room = room_for_history(engine.runner.capacity, config.max_gen_len, TURN_TOKENS)
        chain = InputChain(
            settings,
            tokenizer.sample_rate_hz,
            longest_s=max(room, 1) / tokenizer.frame_rate_hz,
        )
        return cls(engine, prompts, tokenizer, decoder, config, overlap=overlap, input_chain=chain)

    def answer(
        self,
        audio: Audio,
        *,
        history: Sequence[int] = (),
        seed: int = 0,
        cancel: threading.Event | None = None,
        speak: bool = True,
    ) -> Iterator[Part]:
        """Answer a spoken question.

        Args:
            audio: float32 [T] at the tokenizer's rate.
            history: `Reply.history` of the turn before; empty begins a conversation.
            seed: seed of all draws.
            cancel: ends the answer before the next forward.
            speak: False leaves out the sound.

        Raises:
            AudioError: no float samples of one channel, or one that is not finite.
            ConfigError: a history or seed that cannot be. Both before anything is computed.
        """
        check_audio(audio)
        check_turn(self.engine.layout, history, seed)
        return self._hear("answer", audio, history, seed, cancel, speak=speak)

    def answer_codes(
        self,
        codes: Sequence[int],
        *,
        history: Sequence[int] = (),
        seed: int = 0,
        cancel: threading.Event | None = None,
        speak: bool = True,
    ) -> Iterator[Part]:
        """Answer a question that was encoded as it was spoken.

        Args:
            codes: the speech tokenizer's codes [S], at least one.
            history: see `answer`, like the rest.

        Raises:
            ConfigError: no codes.
        """
        codes = token_ids("codes", codes, self.engine.layout.num_codes)
        check_turn(self.engine.layout, history, seed)
        if not codes:
            raise ConfigError("there are no speech tokens to answer; encode some audio first")
        self.prompts.prompts.system_text("answer")
        content = self.prompts.speech(codes)
        return self._turn("answer", content, history, Timeline(), seed, cancel, speak=speak)

    def transcribe(
        self, audio: Audio, *, seed: int = 0, cancel: threading.Event | None = None
    ) -> Iterator[Part]:
        """Write down what is said in audio float32 [T] at the tokenizer's rate."""
        check_audio(audio)
        check_turn(self.engine.layout, (), seed)
        return self._hear("transcribe", audio, (), seed, cancel, speak=False)

    def speak(
        self, text: str, *, seed: int = 0, cancel: threading.Event | None = None
    ) -> Iterator[Part]:
        """Speak a text."""
        content = self.prompts.encode_plain(text_of("text", text))
        check_turn(self.engine.layout, (), seed)
        if not content:
            raise ConfigError("there is no text to speak; give at least one word")
        return self._speak(text, content, seed, cancel)

    def _speak(
        self, text: str, content: Sequence[int], seed: int, cancel: threading.Event | None
    ) -> Iterator[Part]:
        turn = self._turn("speak", content, (), Timeline(), seed, cancel, speak=True)
        with contextlib.closing(turn):
            for part in turn:
                if isinstance(part, Reply) and part.reason != "cancelled":
                    missing = words_not_spoken(text, part.text)
                    if missing:
                        note = f"this model did not say the words: {' '.join(missing)[:300]}"
                        part = replace(part, notes=(*part.notes, note))
                yield part

    def ask(
        self,
        instruction: str,
        audio: Audio,
        *,
        seed: int = 0,
        cancel: threading.Event | None = None,
        speak: bool = True,
    ) -> Iterator[Part]:
        """Follow a written instruction about audio float32 [T], such as to caption it."""
        before = self.prompts.encode_plain(text_of("instruction", instruction))
        check_audio(audio)
        check_turn(self.engine.layout, (), seed)
        if not before:
            raise ConfigError("there is no instruction; say in words what to do with the audio")
        return self._hear("ask", audio, (), seed, cancel, speak=speak, before=before)

    def chat(
        self,
        text: str,
        *,
        history: Sequence[int] = (),
        seed: int = 0,
        cancel: threading.Event | None = None,
    ) -> Iterator[Part]:
        """Answer a written question in text."""
        content = self.prompts.encode_plain(text_of("text", text))
        check_turn(self.engine.layout, history, seed)
        if not content:
            raise ConfigError("there is no text to answer; give at least one word")
        return self._turn("chat", content, history, Timeline(), seed, cancel, speak=False)

    def respond(
        self,
        task: Task,
        content: Sequence[int],
        *,
        history: Sequence[int] = (),
        transcript: Sequence[int] = (),
        seed: int = 0,
        cancel: threading.Event | None = None,
        speak: bool = True,
    ) -> Iterator[Part]:
        """Answer a turn whose ids are there already: encoded while it was spoken, or typed.

        Args:
            task: answer or transcribe.
            content: ids of the user's turn (`PromptBuilder.speech`, `encode_plain`); none is
                silence.
            transcript: ids of what was asked, for a model that writes that down first; it goes on
                behind them.
            history, seed, cancel, speak: see `answer`.
        """
        content = token_ids("content", content, self.engine.layout.vocab_size)
        check_turn(self.engine.layout, history, seed)
        self.prompts.prompts.system_text(task)
        speak = speak and task != "transcribe"
        if content:
            return self._turn(
                task, content, history, Timeline(), seed, cancel, speak=speak, transcript=transcript
            )
        return self._heard_nothing(task, history, Timeline(), seed, cancel, speak=speak)

    def interrupt(self, reply: Reply, played_seconds: float) -> Heard:
        """Cut a turn, and the cache, to what was heard of it.

        To barge in: set `cancel`, stop the playback, take the remaining parts (the Reply comes
        within one forward), then call this and give `Heard.history` with the next turn. Also
        right for an answer that was computed to its end and is still playing.

        Args:
            reply: the turn's last part.
            played_seconds: seconds of this answer's audio that left the loudspeaker.

        Raises:
            ConfigError: a negative or not finite time.
        """
        played_seconds = seconds("played_seconds", played_seconds)
        layout = self.engine.layout
        prompt, rest = reply.history[: reply.prompt_tokens], reply.history[reply.prompt_tokens :]
        if not rest:  # silence was answered: nothing of it is in the conversation
            return Heard("", 0, reply.history)
        finished = reply.reason == "end"
        # A finished answer ends with <|im_end|> itself; only what follows it was appended.
        appended = self.prompts.end_of_answer((layout.im_end_id,) if finished else ())
        answer = rest[: len(rest) - len(appended)]
        codes = sum(layout.is_code(i) for i in answer)
        heard = min(tokens_heard(played_seconds, self._tokens_per_second(reply, codes)), codes)
        kept, own = cut_answer(answer, layout, heard, finished=finished)
        self.engine.truncate(len(prompt) + own)
        _, text = self._split(reply.task, self.prompts.decode(kept))
        return Heard(text, heard, (*prompt, *kept, *self.prompts.end_of_answer(kept)))

    def _split(self, task: Task, text: str) -> tuple[str, str]:
        """Return what was heard and what is said, of the text of a turn."""
        if task == "answer":
            return self.prompts.prompts.split_answer(text)
        said = text.strip()
        return (said if task == "transcribe" else ""), said

    def _tokens_per_second(self, reply: Reply, codes: int) -> float:
        if self.tokenizer is not None:
            return self.tokenizer.frame_rate_hz
        return codes / reply.audio_seconds if reply.audio_seconds else 0.0

    def _hear(
        self,
        task: Task,
        audio: Audio,
        history: Sequence[int],
        seed: int,
        cancel: threading.Event | None,
        *,
        speak: bool,
        before: Sequence[int] = (),
    ) -> Iterator[Part]:
        timeline = Timeline()
        self.prompts.prompts.system_text(task)  # a model without this task says so first
        codes: Sequence[int] = ()
        notes: tuple[str, ...] = ()
        if not is_silent(audio):
            with timeline.phase("encode", f"{len(audio)} samples"):
                if self.tokenizer is None:
                    raise ConfigError("this assistant was made without a speech tokenizer")
                prepared = self.prepare(audio)
                notes = prepared.notes
                codes = self.tokenizer.encode(prepared.audio).tolist()
        if not codes:
            yield from self._heard_nothing(
                task, history, timeline, seed, cancel, speak=speak, notes=notes
            )
            return
        content = [*before, *self.prompts.speech(codes)]
        yield from self._turn(
            task, content, history, timeline, seed, cancel, speak=speak, notes=notes
        )

    def prepare(self, audio: Audio) -> Prepared:
        """Return a recording float32 [T] as the tokenizer is to hear it.

        Raises:
            AudioError: it is longer than the model hears.
        """
        return Prepared(audio) if self.input_chain is None else self.input_chain.prepare(audio)

    def _heard_nothing(
        self,
        task: Task,
        history: Sequence[int],
        timeline: Timeline,
        seed: int,
        cancel: threading.Event | None,
        *,
        speak: bool,
        notes: tuple[str, ...] = (),
    ) -> Iterator[Part]:
        """Say so, in the model's voice if it has one; a transcript is simply empty."""
        seconds = 0.0
        if task in ("answer", "ask"):
            yield TextPart(HEARD_NOTHING)
            if speak and self.decoder is not None and "speak" in self.prompts.prompts.system:
                content = self.prompts.encode_plain(HEARD_NOTHING)
                for part in self._turn("speak", content, (), timeline, seed, cancel, speak=True):
                    if isinstance(part, AudioPart):
                        yield part
                    elif isinstance(part, Reply):
                        seconds = part.audio_seconds
        timeline.finish()
        text = HEARD_NOTHING if task in ("answer", "ask") else ""
        before = len(history)
        yield Reply(task, "", text, seconds, "silence", tuple(history), timeline, before, notes)

    def _turn(
        self,
        task: Task,
        content: Sequence[int],
        history: Sequence[int],
        timeline: Timeline,
        seed: int,
        cancel: threading.Event | None,
        *,
        speak: bool,
        notes: tuple[str, ...] = (),
        transcript: Sequence[int] = (),
    ) -> Generator[Part, None, None]:
        known = () if self.prompts.prompts.single_turn else history
        before = list(known) or self.prompts.conversation(task)
        turn = self.prompts.user_turn(content)
        if self.history_policy == "drop_oldest":
            room = room_for_history(self.engine.runner.capacity, self.config.max_gen_len, len(turn))
            before, dropped = drop_oldest(before, self.prompts.user_header, room)
            if dropped:
                notes = (
                    *notes,
                    f"the conversation is too long: its oldest {dropped} turns are forgotten",
                )
        prompt = [*before, *turn, *transcript]
        voice = None
        if speak and self.decoder is not None:
            voice = AnswerVoice(self.decoder, timeline, self.engine.layout)
            if self.tokenizer is not None:
                voice.playback = DeadlineSchedule(self.tokenizer.frame_rate_hz)
        plan_passes = None
        observer: Observer = timeline.observe
        if voice is not None and self.engine.wants_deadline:
            if voice.playback is None:
                raise ConfigError("fast option deadline needs a bundle with a speech tokenizer")
            plan_passes = voice.playback.plan
            observer = both(timeline.observe, voice.playback.observe)
        stop = CancelEither(cancel)
        halt = CancelEither(stop)  # ends the model; what it made is still decoded
        events = self.engine.generate(
            prompt,
            self.config,
            seed=seed,
            cancel=halt,
            observer=observer,
            plan_passes=plan_passes,
        )
        if self.stops_runaway and self.engine.exactness != "reference":
            events = watched(events, RunawayGuard(task, content, self.engine.layout), halt.set)
        decode: Decode = _no_sound if voice is None else voice.decode
        if self.overlap and voice is not None:
            items = overlapped(events, decode, stop)
        else:
            items = in_turn(events, decode)
        mark = self.prompts.prompts.working_mark if task == "answer" else ""
        text = TextStream(self.prompts, mark)
        text.whole = self.prompts.decode(transcript)
        answer: list[int] = []
        least: float | None = None
        reason: DoneReason = "end"
        with contextlib.closing(items):
            for item in items:
                if isinstance(item, np.ndarray):
                    yield AudioPart(item)
                    continue
                answer.extend(item.ids)
                if isinstance(item, TextEvent):
                    least = least_of(least, item.probability)
                    if part := text.push(item.ids[0]):
                        yield TextPart(part, least)
                        least = None
                elif isinstance(item, DoneEvent):
                    reason = item.reason
        if voice is not None and voice.playback is not None:
            timeline.underruns = voice.playback.underruns
        timeline.finish()
        heard, said = self._split(task, text.whole)
        rest = self.prompts.end_of_answer(answer)
        seconds = 0.0 if voice is None else voice.seconds
        whole = tuple(prompt + answer + rest)
        if note := end_note(reason, self.config, self.engine.runner.capacity):
            notes = (*notes, note)
        yield Reply(task, heard, said, seconds, reason, whole, timeline, len(prompt), notes)


def _no_sound(event: SpeechEvent | DoneEvent) -> Sequence[Audio]:
    return ()


def pick_preset(bundle: Bundle, name: str | None) -> GenerationConfig:
    """Return a preset of the bundle by name, else a released one; None takes the bundle's first."""
    presets = bundle.config.presets
    if name is None:
        return next(iter(presets.values()), None) or GenerationConfig.preset("script")
    if name in presets:
        return presets[name]
    try:
        return GenerationConfig.preset(name)
    except ConfigError:
        known = ", ".join(dict.fromkeys([*presets, "script", "paper"]))
        raise ConfigError(f"unknown preset {name!r}; this bundle knows {known}") from None
