"""Rows C1 and C2: threads that share the shipped bundle's engine, or its codec.

On our kernels they ended the process within 0.3 s; in onnxruntime they gave other ids. The rule
itself is tested in test_guard.py, here it meets both real backends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from ttt_ref.errors import TttError
from ttt_runtime.cli.assistant_run import SHIPPED
from ttt_runtime.dialogue.assistant import Assistant, Reply

THREADS, ROUNDS = 6, 5
TEXTS = ("paris", "the capital of spain is madrid", "hello", "rome is the capital of italy")


@pytest.fixture(scope="module", params=["cpu", "cpu+onnxruntime"])
def assistant(request: pytest.FixtureRequest) -> Assistant:
    made = Assistant.from_bundle(SHIPPED, request.param, threads=2)
    made.config = replace(made.config, max_gen_len=70)
    return made


def at_once(work: Callable[[int], list[object]]) -> list[object]:
    """Call `work` with 0 .. THREADS-1 in threads that start together; return what they return."""
    start = threading.Barrier(THREADS)

    def begin(number: int) -> list[object]:
        start.wait()
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return [item for items in pool.map(begin, range(THREADS)) for item in items]


def prompts(assistant: Assistant) -> list[list[int]]:
    """Prompts of different lengths."""
    builder = assistant.prompts
    before = builder.conversation("speak")
    return [[*before, *builder.user_turn(builder.encode_plain(text))] for text in TEXTS]


def test_threads_on_one_engine_get_right_ids_or_one_line(assistant: Assistant) -> None:
    engine, asked = assistant.engine, prompts(assistant)
    want = [engine.generate_ids(prompt, assistant.config) for prompt in asked]

    def ask(number: int) -> list[object]:
        results: list[object] = []
        for turn in range(ROUNDS):
            at = (number + turn) % len(asked)
            try:
                results.append(engine.generate_ids(asked[at], assistant.config) == want[at])
            except TttError as error:
                results.append(str(error))
        return results

    results = at_once(ask)
    assert len(results) == THREADS * ROUNDS
    assert any(result is True for result in results)
    for result in results:
        assert result is True or "in the middle of an answer" in str(result)
        assert "\n" not in str(result)
    assert [engine.generate_ids(prompt, assistant.config) for prompt in asked] == want


def test_threads_on_one_codec_get_the_same_codes_and_sound(assistant: Assistant) -> None:
    tokenizer, decoder = assistant.tokenizer, assistant.decoder
    assert tokenizer is not None
    assert decoder is not None
    rng = np.random.default_rng(5)
    sounds = [
        (0.2 * rng.standard_normal(tokenizer.sample_rate_hz * n // 4)).astype(np.float32)
        for n in range(1, 5)
    ]
    codes = [tokenizer.encode(sound) for sound in sounds]
    spoken = [decoder.decode(ids) for ids in codes]

    def use(number: int) -> list[object]:
        results: list[object] = []
        for turn in range(ROUNDS):
            at = (number + turn) % len(sounds)
            results.append(np.array_equal(tokenizer.encode(sounds[at]), codes[at]))
            results.append(bool(np.allclose(decoder.decode(codes[at]), spoken[at], atol=1e-4)))
        return results

    assert at_once(use) == [True] * (2 * THREADS * ROUNDS)


def test_an_engine_that_refused_goes_on_with_the_conversation(assistant: Assistant) -> None:
    """A call of another thread in the middle of a turn changes nothing of that turn."""
    want = list(assistant.speak("hello"))[-1]
    turn = assistant.speak("hello")
    parts = [next(turn)]
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(lambda: list(assistant.speak("paris")))
        with pytest.raises(TttError, match="in the middle of an answer"):
            other.result(timeout=60)
    parts += list(turn)
    assert isinstance(parts[-1], Reply)
    assert isinstance(want, Reply)
    assert parts[-1].history == want.history
