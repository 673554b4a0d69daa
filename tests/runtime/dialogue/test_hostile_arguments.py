"""Wrong arguments of the Python API: one line of ours, nothing changed, the next answer the same.

Rows T8 and H9: seeds, ids and capacities of another type were cut or ended in numpy's errors, and
chunk_rows of -5 never ended.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.runtime.decode.test_engine import LAYOUT, cases, oracle
from tests.runtime.toy import ToyRunner
from tests.runtime.toy_assistant import toy_assistant
from ttt_ref.arguments import shown, token_ids
from ttt_ref.errors import AudioError, CodecError, ConfigError, TttError
from ttt_runtime.backends.kv_cache import open_capacity
from ttt_runtime.backends.ort.session import SessionSettings
from ttt_runtime.codec.builtin.decoder import check_codes
from ttt_runtime.codec.builtin.tokenizer import check_audio
from ttt_runtime.decode.engine import SpeechEngine
from ttt_runtime.dialogue.assistant import Reply

NAN = float("nan")
NO_WHOLE = (1.5, "a", None, True, NAN, [1], np.float64(2), b"1", 1j)
SEEDS = (-1, 2**64, 2**70, 10**5000, [10**5000], *NO_WHOLE)
PROMPTS = (
    [NAN],
    [1.5],
    [1, 2.0],
    np.array([1.0, 2.0]),
    np.array([[1, 2], [3, 4]]),
    [[1], [2]],
    np.array(3),
    [True],
    [-1],
    [10**6],
    [2**70],
    [10**5000],
    ["a"],
    [None],
    "abc",
    b"abc",
    7,
    None,
    [],
)
QUESTION = (0.3 * np.sin(np.arange(16000) / 7)).astype(np.float32)
SOUNDS = (
    None,
    "q.wav",
    [0.5, 0.5],
    np.zeros((2, 100), np.float32),
    np.array(0.5, np.float32),
    np.full(1000, 9, np.int16),
    np.full(1000, np.nan, np.float32),
    np.append(QUESTION, np.float32("inf")),
    np.array(["a"]),
)


def short(value):
    return shown(value)[:30]


def refused(work, kind=ConfigError):
    with pytest.raises(kind) as caught:
        work()
    line = str(caught.value)
    assert line
    assert "\n" not in line
    assert len(line) < 300
    assert isinstance(caught.value, TttError)


@pytest.fixture(scope="module")
def served():
    """An engine in the middle of a conversation, and what it answers."""
    model, prompt, config = next(c for c in cases(60) if len(oracle(*c)) > 12)
    engine = SpeechEngine(ToyRunner(model), LAYOUT)
    return engine, prompt, config, engine.generate_ids(prompt, config)


@pytest.mark.parametrize("seed", SEEDS, ids=short)
def test_a_seed_that_cannot_be(served, seed):
    engine, prompt, config, want = served
    kept = engine.kept_ids
    refused(lambda: engine.generate(prompt, config, seed=seed))
    assert engine.kept_ids == kept
    assert engine.generate_ids(prompt, config) == want


@pytest.mark.parametrize("prompt", PROMPTS, ids=short)
def test_a_prompt_that_cannot_be(served, prompt):
    """1.5 was cut to 1 without a word."""
    engine, good, config, want = served
    kept = engine.kept_ids
    refused(lambda: engine.generate(prompt, config))
    assert engine.kept_ids == kept
    assert engine.generate_ids(good, config) == want


def test_a_refused_call_leaves_a_generation_under_way_alone(served):
    engine, prompt, config, want = served
    events = engine.generate(prompt, config)
    ids = list(next(events).ids)
    for work in (
        lambda: engine.generate(prompt, config, seed=-1),
        lambda: engine.generate([1.5], config),
        lambda: engine.truncate(1.5),
        lambda: engine.truncate(None),
    ):
        refused(work)
    assert ids + [i for event in events for i in event.ids] == want


@pytest.mark.parametrize("rows", [0, -5, *NO_WHOLE], ids=short)
def test_chunk_rows_that_cannot_be(served, rows):
    """-5 never ended, 0 was an AssertionError."""
    runner = served[0].runner
    refused(lambda: SpeechEngine(runner, LAYOUT, chunk_rows=rows))


@pytest.mark.parametrize("rows", [0, -1, 101, 2**70, 1.5, "a", True, NAN, [1]], ids=short)
def test_a_capacity_that_cannot_be(rows):
    refused(lambda: open_capacity(100, rows))


@pytest.mark.parametrize("threads", [0, -1, 1025, 2**70, 1.5, "a", True, NAN, [1]], ids=short)
def test_threads_that_cannot_be(threads):
    refused(lambda: SessionSettings(threads=threads))


def test_whole_numbers_of_numpy_serve(served):
    engine, prompt, config, want = served
    assert engine.generate_ids(np.array(prompt, np.uint16), config, seed=np.int8(0)) == want
    assert engine.generate_ids(tuple(prompt), config, seed=2**64 - 1) == want  # greedy
    assert token_ids("ids", range(3), 3) == [0, 1, 2]
    assert open_capacity(100, np.int64(7)) == 7


def turn(assistant):
    """What is said, and the ids of the whole conversation."""
    reply = list(assistant.answer(QUESTION))[-1]
    assert isinstance(reply, Reply)
    return reply.text, reply.history


def assistant_calls(seed=0, history=(), audio=QUESTION):
    """Every public call of a turn with these arguments."""
    return {
        "answer": lambda a: a.answer(audio, history=history, seed=seed),
        "answer_codes": lambda a: a.answer_codes([1, 2], history=history, seed=seed),
        "transcribe": lambda a: a.transcribe(audio, seed=seed),
        "speak": lambda a: a.speak("hi", seed=seed),
        "ask": lambda a: a.ask("what is this?", audio, seed=seed),
        "chat": lambda a: a.chat("hi", history=history, seed=seed),
        "respond": lambda a: a.respond("answer", [1, 2], history=history, seed=seed),
    }


@pytest.fixture(scope="module")
def talking():
    assistant = toy_assistant(tasks=("answer", "transcribe", "speak", "ask", "chat"))
    return assistant, turn(assistant)


@pytest.mark.parametrize("name", assistant_calls())
def test_an_assistant_refuses_when_it_is_called(talking, name):
    """A turn is a generator: the recording was encoded before its seed was looked at."""
    assistant, want = talking
    kept = assistant.engine.kept_ids
    for seed in SEEDS:
        refused(lambda seed=seed: assistant_calls(seed=seed)[name](assistant))
    if name in ("answer", "answer_codes", "chat", "respond"):
        for history in (p for p in PROMPTS if not isinstance(p, list) or p):
            refused(lambda ids=history: assistant_calls(history=ids)[name](assistant))
    if name in ("answer", "transcribe", "ask"):
        for audio in SOUNDS:
            work = assistant_calls(audio=audio)[name]
            refused(lambda work=work: work(assistant), AudioError)
    assert assistant.engine.kept_ids == kept
    assert turn(assistant) == want


@pytest.mark.parametrize("text", [None, 7, b"hi", ["hi"], NAN, "", "  "], ids=short)
def test_a_text_that_is_none(talking, text):
    assistant, want = talking
    for call in (assistant.speak, assistant.chat, lambda text: assistant.ask(text, QUESTION)):
        refused(lambda call=call: call(text))
    assert turn(assistant) == want


@pytest.mark.parametrize("codes", [*PROMPTS, [8]], ids=short)
def test_codes_that_cannot_be(talking, codes):
    assistant, want = talking
    refused(lambda: assistant.answer_codes(codes))
    assert turn(assistant) == want


@pytest.mark.parametrize("played", [-1, NAN, float("inf"), "a", None, True, [1]], ids=short)
def test_a_time_played_that_cannot_be(talking, played):
    assistant, want = talking
    reply = list(assistant.answer(QUESTION))[-1]
    refused(lambda: assistant.interrupt(reply, played))
    assert turn(assistant) == want


@pytest.mark.parametrize("audio", [*SOUNDS[:2], *SOUNDS[3:], [[0.5], [0.5, 0.5]]], ids=short)
def test_sound_that_the_codec_cannot_take(audio):
    refused(lambda: check_audio(audio), AudioError)


@pytest.mark.parametrize(
    "codes", [[1.5], ["a"], [NAN], [8], [-1], [2**70], [[1], [1, 2]], [[1]], None, 3], ids=short
)
def test_codes_that_the_codec_cannot_take(codes):
    refused(lambda: check_codes(codes, 8), CodecError)
