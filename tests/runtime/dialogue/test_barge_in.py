"""Barge-in: an answer is cut to what was heard, and the conversation goes on from there."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.dialogue.test_assistant import LAST, LAYOUT, NEW, TONE, collect, scripted
from tests.runtime.hash_runner import HashRunner
from tests.runtime.toy import ToyModel, ToyRunner
from tests.runtime.toy_assistant import CONFIG, FRAME_SAMPLES, byte_layout, toy_assistant
from ttt_ref.config import GenerationConfig
from ttt_ref.errors import ConfigError
from ttt_runtime.decode.engine import SpeechEngine
from ttt_runtime.dialogue.barge_in import cut_answer, tokens_heard

CODE, AUDIO, QUAD, END = (
    LAYOUT.code_offset,
    LAYOUT.begin_of_audio_id,
    LAYOUT.begin_of_quad_id,
    LAYOUT.im_end_id,
)
ANSWER = [65, AUDIO, CODE, CODE + 1, NEW, 66, QUAD, CODE + 2, CODE + 3, CODE + 4, LAST, END]


@pytest.mark.parametrize(
    ("codes", "kept", "own"),
    [
        (0, [], 0),
        (1, [65, AUDIO, CODE, NEW], 3),
        (2, ANSWER[:5], 5),
        (3, [*ANSWER[:8], LAST], 8),
        (4, [*ANSWER[:9], LAST], 9),
        (5, ANSWER, 12),
        (99, ANSWER, 12),
    ],
)
def test_an_answer_is_cut_behind_the_last_code_heard(codes: int, kept: list[int], own: int) -> None:
    assert cut_answer(ANSWER, LAYOUT, codes, finished=True) == (kept, own)


def test_text_that_was_made_but_never_spoken_is_cut() -> None:
    cancelled = [*ANSWER[:5], 66, 67]
    assert cut_answer(cancelled, LAYOUT, 2, finished=False) == (ANSWER[:5], 5)
    assert cut_answer([65, 66], LAYOUT, 0, finished=False) == ([], 0)
    assert cut_answer([65, 66], LAYOUT, 3, finished=False) == ([], 0)
    assert cut_answer([65, END], LAYOUT, 0, finished=True) == ([65, END], 2)


def test_half_a_token_counts() -> None:
    assert [tokens_heard(s, 25.0) for s in (0.0, 0.019, 0.021, 0.04, 1.0)] == [0, 0, 1, 1, 25]


def test_interrupting_cuts_transcript_history_and_cache() -> None:
    config = GenerationConfig.from_dict({**CONFIG.to_dict(), "max_gen_len": 90})
    assistant = scripted(
        "what\nseven<|begin_of_audio|> men<|begin_of_quad|><|im_end|>",
        [[1, 2, 3, NEW], [4, 5, 6, 7], [1, LAST, 2, 2]],
        transcript_first=True,
        config=GenerationConfig.from_dict({**config.to_dict(), "diffusion_steps": 2}),
    )
    _, _, reply = collect(assistant.answer(TONE))
    assert reply.text == "seven men"
    frame = FRAME_SAMPLES / 16000
    half = assistant.interrupt(reply, 2 * frame)
    assert (half.text, half.speech_tokens) == ("seven", 2)
    answer = half.history[reply.prompt_tokens :]
    spoken = [LAYOUT.id_to_code(i) for i in answer if LAYOUT.is_code(i)]
    assert spoken == [1, 2]
    assert answer[-3:-1] == (NEW, END)  # the span and the turn are closed
    assert half.history[: reply.prompt_tokens] == reply.history[: reply.prompt_tokens]
    # The open span is no closed segment: the cache keeps what is before it.
    assert len(assistant.engine.kept_ids) == reply.prompt_tokens + len("what\nseven") + 1
    nothing = assistant.interrupt(reply, 0.0)
    assert (nothing.text, nothing.speech_tokens) == ("", 0)
    everything = assistant.interrupt(reply, 60.0)
    assert (everything.text, everything.history) == ("seven men", reply.history)
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="played_seconds"):
            assistant.interrupt(reply, wrong)


def test_silence_has_nothing_to_cut() -> None:
    assistant = toy_assistant()
    _, _, reply = collect(assistant.answer(np.zeros(16000, np.float32), history=(1, 2)))
    assert assistant.interrupt(reply, 1.0).history == (1, 2)


def test_the_next_turn_after_an_interruption_equals_a_fresh_engine() -> None:
    interrupted = 0
    for seed in range(12):
        assistant = toy_assistant(seed)
        _, audio, reply = collect(assistant.answer(TONE))
        heard = assistant.interrupt(reply, len(audio) / 16000 / 2)
        interrupted += heard.speech_tokens > 0
        _, _, second = collect(assistant.answer(TONE[:4000], history=heard.history))
        fresh = SpeechEngine(
            ToyRunner(ToyModel(byte_layout(), seed, taste=8.0), 2048), byte_layout()
        )
        prompt = second.history[: second.prompt_tokens]
        assert prompt[: len(heard.history)] == heard.history
        ids = fresh.generate_ids(prompt, assistant.config)
        assert second.history[second.prompt_tokens :][: len(ids)] == tuple(ids)
    assert interrupted >= 3


def converse(turns: int, check_every: int, after_turn: object = None) -> dict[str, int]:
    """Hold conversations with random cancellations and interruptions; return what happened."""
    rng = np.random.default_rng(7)
    runner = HashRunner(LAYOUT)
    config = GenerationConfig.from_dict({**CONFIG.to_dict(), "diffusion_steps": 4})
    assistant = toy_assistant(runner=runner, config=config)  # type: ignore[arg-type]
    reference = SpeechEngine(HashRunner(LAYOUT), LAYOUT, exactness="reference")
    history: tuple[int, ...] = ()
    seen = {"cancelled": 0, "end": 0, "length": 0, "cut": 0, "reused": 0}
    for turn in range(turns):
        audio = TONE[: int(rng.integers(1, 6)) * FRAME_SAMPLES] * np.float32(rng.random() + 0.2)
        cancel = threading.Event()
        if rng.random() < 0.6:
            runner.cancel_after(cancel, int(rng.integers(0, 20)))
        before = len(assistant.engine.kept_ids)
        _, _, reply = collect(
            assistant.answer(audio.astype(np.float32), history=history, cancel=cancel)
        )
        seen["reused"] += before > 0
        seen[str(reply.reason)] += 1
        if turn % check_every == 0:
            prompt, answer = np.split(np.array(reply.history), [reply.prompt_tokens])
            expected = reference.generate_ids(prompt.tolist(), config)
            if reply.reason == "cancelled":
                said = answer[:-2].tolist()  # without the closing of the turn
                assert said == expected[: len(said)]
            else:
                assert answer[: len(expected)].tolist() == expected
        history = reply.history
        if rng.random() < 0.5:
            heard = assistant.interrupt(reply, float(rng.random()) * 2 * reply.audio_seconds)
            seen["cut"] += heard.history != reply.history
            history = heard.history
        if len(history) > 300:
            history = ()
        if after_turn is not None:
            after_turn(turn)  # type: ignore[operator]
    return seen


def test_many_turns_with_random_cancellations_stay_right() -> None:
    seen = converse(200, check_every=2)
    assert seen["cancelled"] > 50
    assert seen["end"] > 20
    assert seen["cut"] > 50
    assert seen["reused"] > 100


@pytest.mark.slow
def test_ten_thousand_turns_keep_memory_flat_and_ids_right() -> None:
    resident: list[int] = []

    def after_turn(turn: int) -> None:
        if turn % 500 == 0:
            gc.collect()
            resident.append(int(Path("/proc/self/statm").read_text().split()[1]))

    seen = converse(10_000, check_every=10, after_turn=after_turn)
    assert seen["cancelled"] > 2500
    early, late = resident[2], resident[-1]  # the first turns fill the interpreter's pools
    assert late < 1.01 * early, resident
