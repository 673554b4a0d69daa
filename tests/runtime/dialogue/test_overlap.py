"""Model and codec in threads: the same answer as in turn, sooner, and always ended cleanly."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from tests.runtime.dialogue.test_assistant import TONE, collect
from tests.runtime.hash_runner import HashRunner
from tests.runtime.toy import ToyModel, ToyRunner
from tests.runtime.toy_assistant import (
    ToneDecoder,
    ToneStream,
    byte_layout,
    toy_assistant,
)
from ttt_ref.config import GenerationConfig
from ttt_ref.errors import ConfigError, TttError
from ttt_runtime.codec.base import Audio, Codes
from ttt_runtime.decode.approximations import Approximations
from ttt_runtime.decode.engine import SpeechEngine
from ttt_runtime.dialogue.assistant import Assistant, AudioPart, Part, Reply
from ttt_runtime.dialogue.overlap import THREAD_NAMES

LAYOUT = byte_layout()
LONG = GenerationConfig(max_gen_len=120, diffusion_steps=4, diffusion_gen_length=8, block_length=4)


def running() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name in THREAD_NAMES]


class HookedRunner(ToyRunner):
    """Calls a hook with the number of the forward that begins."""

    hook: Callable[[int], None] = staticmethod(lambda number: None)

    def forward(self, ids, start, *, positions=None, scratch=False):  # type: ignore[no-untyped-def]
        self.hook(len(self.calls))
        return super().forward(ids, start, positions=positions, scratch=scratch)


class HookedDecoder(ToneDecoder):
    """Calls a hook before each push."""

    def __init__(self, hook: Callable[[], None]) -> None:
        self.hook = hook

    def stream(self) -> ToneStream:
        hook = self.hook

        class Stream(ToneStream):
            def push(self, codes: Codes) -> Audio:
                hook()
                return super().push(codes)

        return Stream()


def assistant(seed: int, *, overlap: bool) -> tuple[Assistant, HookedRunner]:
    runner = HookedRunner(ToyModel(LAYOUT, seed, taste=8.0), capacity=2048)
    made = toy_assistant(runner=runner, config=LONG)
    made.overlap = overlap
    return made, runner


SEED = 7  # its answer has several spans


def test_the_seed_speaks() -> None:
    parts = list(assistant(SEED, overlap=False)[0].answer(TONE))
    assert sum(isinstance(p, AudioPart) for p in parts) >= 4


def test_ids_text_and_audio_equal_those_in_turn() -> None:
    pieces = 0
    config = GenerationConfig.from_dict({**LONG.to_dict(), "max_gen_len": 60})
    for number in range(16):
        one, two = (
            toy_assistant(runner=HashRunner(LAYOUT), config=config)  # type: ignore[arg-type]
            for _ in range(2)
        )
        two.overlap = True
        history: tuple[int, ...] = ()
        for _ in range(2):
            question = TONE[: 640 * (number + 1)]
            text, audio, reply = collect(one.answer(question, history=history))
            other_text, other_audio, other = collect(two.answer(question, history=history))
            assert (other_text, other.history, other.reason) == (text, reply.history, reply.reason)
            np.testing.assert_array_equal(audio, other_audio)
            assert other.audio_seconds == reply.audio_seconds
            history = reply.history
            pieces += len(reply.timeline.phase_ms("decode"))
        assert two.engine.kept_ids == one.engine.kept_ids
    assert pieces > 50
    assert running() == []


def test_the_first_sound_leaves_while_the_model_goes_on() -> None:
    made, runner = assistant(SEED, overlap=True)
    heard = threading.Event()
    late: list[int] = []

    def hook(number: int) -> None:
        if number == last and not heard.wait(20):
            late.append(number)

    collect(made.answer(TONE))
    last = len(runner.calls) - 1  # the very last forward waits for the first sound to be heard
    made.engine.reset()
    runner.calls.clear()
    runner.hook = hook
    for part in made.answer(TONE):
        if isinstance(part, AudioPart):
            heard.set()
    assert heard.is_set()
    assert late == []


def forwards_during_push(number: int, patience: float) -> bool:
    """Tell whether a forward begins while push `number` of the codec is held up."""
    made, runner = assistant(SEED, overlap=True)
    went_on = threading.Event()
    begun = threading.Event()
    seen: list[bool] = []
    pushes: list[int] = []

    def pushed() -> None:
        pushes.append(len(runner.calls))
        if len(pushes) == number + 1:
            begun.set()
            seen.append(went_on.wait(patience))

    def hook(forward: int) -> None:
        if begun.is_set() and not seen:
            went_on.set()

    runner.hook = hook
    made.decoder = HookedDecoder(pushed)
    collect(made.answer(TONE))
    return seen[0]


def test_the_model_goes_on_while_the_codec_works() -> None:
    assert forwards_during_push(2, 20.0)  # the decoder's look-ahead keeps the first block back


def test_until_the_first_sound_the_model_leaves_the_cores_to_the_codec() -> None:
    assert not forwards_during_push(0, 0.5)


def test_a_codec_that_never_finishes_holds_the_model_back() -> None:
    """The queue is bounded: the model gets a few blocks ahead, not the whole answer."""
    made, runner = assistant(SEED, overlap=False)
    collect(made.answer(TONE))
    everything = len(runner.calls)
    made, runner = assistant(SEED, overlap=True)
    release = threading.Event()
    made.decoder = HookedDecoder(lambda: (release.wait(20), None)[1])
    ahead: list[int] = []

    def watch() -> None:
        seen = -1
        while len(runner.calls) != seen:
            seen = len(runner.calls)
            time.sleep(1.0)
        ahead.append(seen)
        release.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    collect(made.answer(TONE))
    watcher.join()
    assert ahead[0] < everything


@pytest.mark.parametrize("overlap", [False, True])
def test_an_exception_of_the_model_comes_behind_the_sound_before_it(overlap: bool) -> None:
    made, runner = assistant(SEED, overlap=overlap)
    collect(made.answer(TONE))
    last = len(runner.calls) - 1
    made.engine.reset()
    runner.calls.clear()

    def hook(number: int) -> None:
        if number == last:
            raise TttError("the model broke")

    runner.hook = hook
    parts: list[Part] = []

    with pytest.raises(TttError, match="the model broke"):
        parts.extend(made.answer(TONE))  # keeps what came before the exception
    assert any(isinstance(p, AudioPart) for p in parts)
    assert running() == []


def test_an_exception_of_the_codec_reaches_the_caller_and_ends_the_model() -> None:
    def broken() -> None:
        raise TttError("the codec broke")

    made, runner = assistant(SEED, overlap=True)
    expected = made.engine
    made.decoder = HookedDecoder(broken)
    with pytest.raises(TttError, match="the codec broke"):
        list(made.answer(TONE))
    assert running() == []
    made.decoder = ToneDecoder()
    _, _, reply = collect(made.answer(TONE))
    assert reply.history == collect(assistant(SEED, overlap=False)[0].answer(TONE))[2].history
    assert made.engine is expected
    assert len(runner.calls) > 0


def test_leaving_early_ends_both_threads_and_leaves_the_engine_right() -> None:
    whole = collect(assistant(SEED, overlap=False)[0].answer(TONE))[2]
    for taken in (1, 2, 4, 7):
        made, _ = assistant(SEED, overlap=True)
        parts = made.answer(TONE)
        for _ in range(taken):
            next(parts)
        parts.close()  # type: ignore[attr-defined]
        assert running() == []
        assert collect(made.answer(TONE))[2].history == whole.history


@pytest.mark.parametrize("at", [0, 1, 3, 6, 10, 15])
def test_cancelling_in_any_forward_is_seen_before_the_next(at: int) -> None:
    made, runner = assistant(SEED, overlap=True)
    cancel = threading.Event()

    def hook(number: int) -> None:
        if number == at:
            cancel.set()

    runner.hook = hook
    _, audio, reply = collect(made.answer(TONE, cancel=cancel))
    assert reply.reason == "cancelled"
    assert len(runner.calls) == at + 1
    assert reply.audio_seconds == pytest.approx(len(audio) / 16000)
    assert running() == []
    heard = made.interrupt(reply, reply.audio_seconds)
    assert heard.speech_tokens >= round(reply.audio_seconds * 25)
    runner.hook = lambda number: None
    whole = collect(assistant(SEED, overlap=False)[0].answer(TONE))[2]
    assert collect(made.answer(TONE))[2].history == whole.history


@pytest.mark.parametrize("overlap", [False, True])
def test_cancelling_while_the_question_is_encoded_runs_no_forward(overlap: bool) -> None:
    made, runner = assistant(SEED, overlap=overlap)
    cancel = threading.Event()
    tokenizer = made.tokenizer
    assert tokenizer is not None

    class Cancelling(type(tokenizer)):  # type: ignore[misc]
        def encode(self, audio: Audio) -> Codes:
            cancel.set()
            return super().encode(audio)

    made.tokenizer = Cancelling()
    text, audio, reply = collect(made.answer(TONE, cancel=cancel))
    assert (text, len(audio), reply.reason, runner.calls) == ("", 0, "cancelled", [])
    said = made.interrupt(reply, 0.0).history[reply.prompt_tokens :]
    assert said == tuple(made.prompts.end_of_answer(()))  # the turn is closed, nothing is in it
    assert running() == []


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("at", [0, 2])
def test_cancelling_while_a_block_is_decoded_ends_sound_and_model(at: int, overlap: bool) -> None:
    made, runner = assistant(SEED, overlap=overlap)
    cancel = threading.Event()
    pushes: list[int] = []
    forwards: list[int] = []

    def pushed() -> None:
        if len(pushes) == at:
            cancel.set()
            forwards.append(len(runner.calls))
        pushes.append(len(runner.calls))

    made.decoder = HookedDecoder(pushed)
    _, _, reply = collect(made.answer(TONE, cancel=cancel))
    assert reply.reason == "cancelled"
    assert len(pushes) == at + 1  # nothing more is decoded, whatever still waits
    # In turn no forward follows; beside the codec the one that was running may end.
    assert len(runner.calls) <= forwards[0] + int(overlap)
    assert running() == []


def test_cancelling_between_the_chunks_of_a_long_prompt() -> None:
    cancel = threading.Event()
    runner = HookedRunner(ToyModel(LAYOUT, SEED, taste=8.0), capacity=2048)
    runner.hook = lambda number: cancel.set() if number == 1 else None
    engine = SpeechEngine(runner, LAYOUT, chunk_rows=8)
    events = list(engine.generate(list(range(40, 90)), LONG, cancel=cancel))
    assert [type(event).__name__ for event in events] == ["DoneEvent"]
    assert len(runner.calls) == 2
    assert engine.kept_ids == tuple(range(40, 56))  # what was computed stays usable


def test_underruns_are_counted_and_the_deadline_option_runs() -> None:
    made, _ = assistant(SEED, overlap=True)
    _, _, reply = collect(made.answer(TONE))
    assert reply.timeline.figures(reply.audio_seconds)["underruns"] is not None
    _, _, silent = collect(made.answer(TONE, speak=False))
    assert silent.timeline.underruns is None
    runner = ToyRunner(ToyModel(LAYOUT, SEED, taste=8.0), capacity=2048)
    fast = Approximations(constrained_heads=False, deadline=True)
    made.engine = SpeechEngine(runner, LAYOUT, exactness="fast", fast=fast)
    _, audio, reply = collect(made.answer(TONE))
    assert isinstance(reply, Reply)
    assert len(audio) > 0
    made.tokenizer = None
    with pytest.raises(ConfigError, match="deadline needs"):
        list(made.speak("hello"))
