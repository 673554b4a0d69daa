"""The engine on a toy model: `exact` and `reference` equal a slow oracle that knows no cache."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest

from tests.runtime.toy import ToyModel, ToyRunner, oracle, toy_layout
from ttt_ref.config import GenerationConfig
from ttt_ref.errors import ConfigError, TttError
from ttt_runtime.decode.approximations import Approximations
from ttt_runtime.decode.engine import SpeechEngine
from ttt_runtime.decode.events import DoneEvent, SpeechEvent, TextEvent
from ttt_runtime.decode.scheduler import State, Step

LAYOUT = toy_layout()
CONFIGS = [
    GenerationConfig(max_gen_len=40, diffusion_steps=4, diffusion_gen_length=8, block_length=4),
    GenerationConfig(max_gen_len=30, diffusion_steps=5, diffusion_gen_length=5, block_length=5),
    GenerationConfig(
        max_gen_len=40,
        diffusion_steps=6,
        diffusion_gen_length=12,
        block_length=6,
        cfg_scale=0.5,
        min_text_tokens_after_audio=3,
    ),
    GenerationConfig(
        max_gen_len=25, diffusion_steps=14, diffusion_gen_length=6, block_length=3, cfg_scale=1.5
    ),
]


def random_prompt(rng: np.random.Generator) -> list[int]:
    """Text and audio runs of random lengths, sometimes ending in audio."""
    ids: list[int] = []
    for _ in range(int(rng.integers(1, 5))):
        ids += rng.integers(0, 9, int(rng.integers(1, 6))).tolist()
        ids += rng.integers(9, LAYOUT.vocab_size, int(rng.integers(0, 6))).tolist()
    return ids


def cases(count: int) -> list[tuple[ToyModel, list[int], GenerationConfig]]:
    made = []
    for seed in range(count):
        rng = np.random.default_rng(1000 + seed)
        model = ToyModel(LAYOUT, seed, taste=float(rng.choice([0.0, 1.0, 3.0])))
        made.append((model, random_prompt(rng), CONFIGS[seed % len(CONFIGS)]))
    return made


def test_exact_equals_full_recompute_on_random_prompts() -> None:
    """120 random models and prompts, half with guidance; cache rows are NaN where unwritten."""
    seen = {"spans": 0, "audio_by_text": 0, "text_in_block": 0, "masks_left": 0, "two_blocks": 0}
    for model, prompt, config in cases(120):
        expected = oracle(model, prompt, config)
        engine = SpeechEngine(ToyRunner(model), LAYOUT, chunk_rows=3)
        events = list(engine.generate(prompt, config))
        assert [i for e in events for i in e.ids] == expected
        done = events[-1]
        assert isinstance(done, DoneEvent)
        assert done.generated_tokens == len(expected)
        speech = [e for e in events if isinstance(e, SpeechEvent)]
        seen["spans"] += sum(e.ends_span for e in speech)
        seen["two_blocks"] += any(not e.ends_span for e in speech)
        seen["masks_left"] += any(LAYOUT.mask_id in e.ids for e in speech)
        seen["text_in_block"] += any(i < LAYOUT.audio_start for e in speech for i in e.ids)
        text = [e for e in events if isinstance(e, TextEvent)]
        seen["audio_by_text"] += any(LAYOUT.is_audio(e.ids[0]) for e in text)
    # The comparison is worth something only if the odd cases were in it.
    assert all(count >= 5 for count in seen.values()), seen


def test_reference_equals_full_recompute_and_keeps_no_cache() -> None:
    for model, prompt, config in cases(24):
        runner = ToyRunner(model)
        engine = SpeechEngine(runner, LAYOUT, exactness="reference")
        assert engine.generate_ids(prompt, config) == oracle(model, prompt, config)
        assert {start for start, _, _ in runner.calls} <= {0}
        assert engine.kept_ids == ()


def test_begin_token_and_finished_span_need_no_forward_of_their_own() -> None:
    _, prompt, config = cases(1)[0]
    checked = 0
    for seed in range(40):
        runner = ToyRunner(ToyModel(LAYOUT, seed, taste=3.0))
        events = list(SpeechEngine(runner, LAYOUT).generate(prompt, config))
        span = [e for e in events if isinstance(e, SpeechEvent) and e.span == 0]
        ids = [i for e in span for i in e.ids]
        # Only plain spans whose length no block pass has: the two kinds of call are told apart.
        plain = all(map(LAYOUT.is_audio, ids)) and len(ids) % config.block_length
        if not span or not span[-1].ends_span or not plain:
            continue
        start = span[0].position
        assert (start - 1, 1 + config.block_length, False) in runner.calls
        assert (start - 1, 1, False) not in runner.calls
        if start + len(ids) < len(prompt) + config.max_gen_len:
            assert (start, len(ids), False) in runner.calls
            checked += 1
    assert checked > 5


def test_next_turn_continues_from_the_kept_cache() -> None:
    checked = 0
    for model, prompt, config in cases(24):
        engine = SpeechEngine(ToyRunner(model), LAYOUT)
        first = engine.generate_ids(prompt, config)
        follow_up = prompt + first + [4, 1, 2, 11, 12, 13, 5, 4]
        events = list(engine.generate(follow_up, config))
        assert [i for e in events for i in e.ids] == oracle(model, follow_up, config)
        done = events[-1]
        assert isinstance(done, DoneEvent)
        assert done.cached_tokens <= len(prompt) + len(first)
        checked += done.cached_tokens > len(prompt)
    assert checked > 12


@pytest.mark.parametrize("cut", [0, 1, 3, 5, 8, 11])
def test_a_prompt_that_differs_reuses_only_what_is_the_same(cut: int) -> None:
    """A kept run of audio ids that goes on differently must be computed again."""
    model, _, config = cases(1)[0]
    first = [0, 1, 10, 11, 12, 2, 10, 11, 3, 12, 13, 14, 4]
    for tail in ([13, 1], [2, 2, 2], [10], [1, 10, 11]):
        engine = SpeechEngine(ToyRunner(model), LAYOUT)
        engine.generate_ids(first, config)
        other = first[:cut] + tail
        assert engine.generate_ids(other, config) == oracle(model, other, config)


@pytest.mark.parametrize("tokens", range(14))
def test_truncate_to_any_point_leaves_a_usable_cache(tokens: int) -> None:
    model, _, config = cases(1)[0]
    prompt = [0, 1, 10, 11, 12, 2, 10, 11, 3, 12, 13, 14, 4, 1]
    engine = SpeechEngine(ToyRunner(model), LAYOUT)
    engine.generate_ids(prompt, config)
    engine.truncate(tokens)
    assert len(engine.kept_ids) <= tokens
    assert engine.generate_ids(prompt, config) == oracle(model, prompt, config)


class _CancelAfter:
    """Cancels at the end of forward number `after`, counted from 0."""

    def __init__(self, after: int, cancel: threading.Event) -> None:
        self.forwards, self.after, self.cancel = 0, after, cancel

    def __call__(self, *_: object) -> None:
        self.forwards += 1
        if self.forwards > self.after:
            self.cancel.set()


def test_cancellation_is_seen_before_each_forward_and_leaves_the_cache_right() -> None:
    model, prompt, config = next(c for c in cases(60) if len(oracle(*c)) > 12)
    expected = oracle(model, prompt, config)
    for after in range(12):
        runner, cancel = ToyRunner(model), threading.Event()
        engine = SpeechEngine(runner, LAYOUT)
        watch = _CancelAfter(after, cancel)
        events = list(engine.generate(prompt, config, cancel=cancel, observer=watch))
        done = events[-1]
        assert isinstance(done, DoneEvent)
        assert done.reason == "cancelled"
        assert watch.forwards == after + 1
        got = [i for e in events for i in e.ids]
        assert got == expected[: len(got)]
        assert engine.generate_ids(prompt, config) == expected


def test_closing_the_events_early_leaves_the_cache_right() -> None:
    model, prompt, config = next(c for c in cases(60) if len(oracle(*c)) > 12)
    for taken in range(1, 6):
        engine = SpeechEngine(ToyRunner(model), LAYOUT)
        events = engine.generate(prompt, config)
        for _ in range(taken):
            next(events)
        events.close()  # type: ignore[attr-defined]
        assert engine.generate_ids(prompt, config) == oracle(model, prompt, config)


def test_an_older_generation_may_not_go_on() -> None:
    model, prompt, config = next(c for c in cases(60) if len(oracle(*c)) > 12)
    engine = SpeechEngine(ToyRunner(model), LAYOUT)
    old = engine.generate(prompt, config)
    next(old)
    assert engine.generate_ids(prompt, config) == oracle(model, prompt, config)
    with pytest.raises(TttError, match="another generation"):
        next(old)


def test_generations_that_take_turns_give_the_ids_that_each_gives_alone() -> None:
    rng = np.random.default_rng(5)
    long_ones = [c for c in cases(60) if len(oracle(*c)) > 12]
    for exactness in ("exact", "reference"):
        for model, prompt, config in long_ones[:6]:
            other = [*prompt[:-1], 1, 2]  # shares a beginning with the first
            engine = SpeechEngine(ToyRunner(model), LAYOUT, exactness=exactness, interleaved=True)
            prompts = [prompt, other, prompt]
            running = {n: engine.generate(p, config) for n, p in enumerate(prompts)}
            got: list[list[int]] = [[] for _ in prompts]
            while running:
                number = int(rng.choice(list(running)))
                event = next(running[number], None)
                if event is None:
                    del running[number]
                else:
                    got[number].extend(event.ids)
            assert got == [oracle(model, p, config) for p in prompts]


def test_a_cut_of_the_cache_between_two_events_changes_no_id_of_who_takes_turns() -> None:
    model, prompt, config = next(c for c in cases(60) if len(oracle(*c)) > 12)
    engine = SpeechEngine(ToyRunner(model), LAYOUT, interleaved=True)
    ids: list[int] = []
    for event in engine.generate(prompt, config):
        ids.extend(event.ids)
        engine.truncate(len(ids) % 7)
    assert ids == oracle(model, prompt, config)


def test_divisibility_is_an_error_only_when_a_span_starts() -> None:
    bad = GenerationConfig(
        max_gen_len=12, diffusion_steps=3, diffusion_gen_length=9, block_length=4
    )
    raised = finished = 0
    for model, prompt, _ in cases(60):
        engine = SpeechEngine(ToyRunner(model), LAYOUT)
        try:
            ids = engine.generate_ids(prompt, bad)
        except ConfigError:
            raised += 1
        else:
            finished += 1
            assert not set(ids[:-1]) & set(LAYOUT.begin_ids)
    assert raised > 5
    assert finished > 5


def test_bad_prompts_are_one_line_errors() -> None:
    engine = SpeechEngine(ToyRunner(ToyModel(LAYOUT, 0), capacity=20), LAYOUT)
    for prompt, word in (([], "empty"), ([1, 99], "99"), ([-1], "-1"), ([1] * 21, "21 tokens")):
        with pytest.raises(ConfigError, match=word):
            engine.generate(prompt, CONFIGS[0])


def test_a_full_cache_ends_the_answer() -> None:
    reasons = set()
    for model, prompt, config in cases(40):
        runner = ToyRunner(model, capacity=len(prompt) + 10)
        events = list(SpeechEngine(runner, LAYOUT).generate(prompt, config))
        done = events[-1]
        assert isinstance(done, DoneEvent)
        reasons.add(done.reason)
        got = [i for e in events for i in e.ids]
        assert got == oracle(model, prompt, config)[: len(got)]
    assert "full" in reasons


def test_exactness_and_fast_options_must_fit() -> None:
    runner = ToyRunner(ToyModel(LAYOUT, 0))
    with pytest.raises(ConfigError, match="unknown exactness 'quick'"):
        SpeechEngine(runner, LAYOUT, exactness="quick")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="fast options"):
        SpeechEngine(runner, LAYOUT, exactness="exact", fast=Approximations())


def test_constrained_heads_choose_only_their_side() -> None:
    for model, prompt, config in cases(24):
        engine = SpeechEngine(ToyRunner(model), LAYOUT, exactness="fast")
        for event in engine.generate(prompt, config):
            if isinstance(event, TextEvent):
                assert event.ids[0] < LAYOUT.audio_start
            elif isinstance(event, SpeechEvent):
                assert min(event.ids) >= LAYOUT.audio_start


def test_fast_without_any_option_is_exact() -> None:
    none = Approximations(constrained_heads=False, guidance="full")
    for model, prompt, config in cases(12):
        engine = SpeechEngine(ToyRunner(model), LAYOUT, exactness="fast", fast=none)
        assert engine.generate_ids(prompt, config) == oracle(model, prompt, config)


def test_constant_guidance_runs_no_second_row() -> None:
    model, prompt, config = cases(3)[2]
    assert config.cfg_scale > 0
    for guidance, most in (("constant", 1), ("off", 0)):
        runner = ToyRunner(model)
        fast = Approximations(constrained_heads=False, guidance=guidance)  # type: ignore[arg-type]
        SpeechEngine(runner, LAYOUT, exactness="fast", fast=fast).generate_ids(prompt, config)
        assert sum(scratch for _, _, scratch in runner.calls) <= most


def test_first_pass_of_a_block_needs_no_second_row() -> None:
    """Guidance: a row of masks only has one hidden vector, whatever its length."""
    for model, prompt, config in cases(40)[2::4]:
        runner = ToyRunner(model)
        ran: list[Step] = []
        engine = SpeechEngine(runner, LAYOUT)
        for _ in engine.generate(
            prompt, config, observer=lambda step, *_, ran=ran: ran.append(step)
        ):
            pass
        steps = [step.block_step for step in ran if step.state is State.BLOCK]
        second_rows = sum(scratch for _, _, scratch in runner.calls)
        assert second_rows == sum(s > 0 for s in steps) + bool(steps)


def test_sampling_is_seeded() -> None:
    model, prompt, config = cases(1)[0]
    noisy = dataclasses.replace(
        config, ar_temperature=1.0, diffusion_temperature=0.7, remasking="random", top_k=6
    )
    engine = SpeechEngine(ToyRunner(model), LAYOUT)
    runs = [tuple(engine.generate_ids(prompt, noisy, seed=s)) for s in (1, 1, 2, 3, 4)]
    assert runs[0] == runs[1]
    assert len(set(runs)) > 1
