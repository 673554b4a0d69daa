"""Each approximation of `fast` alone: what it does, and how near it stays to `exact`."""

from __future__ import annotations

import dataclasses

import pytest

from tests.runtime.decode.test_engine import cases
from tests.runtime.toy import ToyModel, ToyRunner, toy_layout
from ttt_ref.config import GenerationConfig
from ttt_ref.errors import ConfigError
from ttt_runtime.decode.approximations import EXACT, Approximations, parse_approximations
from ttt_runtime.decode.engine import SpeechEngine
from ttt_runtime.decode.events import SpeechEvent
from ttt_runtime.decode.scheduler import State, Step

LAYOUT = toy_layout()
CODE, NEW, MASK = LAYOUT.code_offset, LAYOUT.end_of_audio_new_id, LAYOUT.mask_id
CONFIG = GenerationConfig(
    max_gen_len=60, diffusion_steps=16, diffusion_gen_length=16, block_length=4
)


def run(
    model: ToyModel, prompt: list[int], config: GenerationConfig, **options: object
) -> tuple[list[int], list[Step], list[SpeechEvent]]:
    """Generate with some options on, all others off."""
    fast = dataclasses.replace(EXACT, **options)  # type: ignore[arg-type]
    engine = SpeechEngine(ToyRunner(model), LAYOUT, exactness="fast", fast=fast)
    steps: list[Step] = []
    events = list(engine.generate(prompt, config, observer=lambda step, *_: steps.append(step)))
    speech = [e for e in events if isinstance(e, SpeechEvent)]
    return [i for e in events for i in e.ids], steps, speech


def blocks(steps: list[Step]) -> list[Step]:
    return [s for s in steps if s.state is State.BLOCK]


def test_a_threshold_of_one_changes_nothing_and_a_low_one_needs_one_pass() -> None:
    counts = []
    for model, prompt, config in cases(16):
        expected, _, _ = run(model, prompt, config)
        assert run(model, prompt, config, threshold=1.0)[0] == expected
        _, steps, speech = run(model, prompt, config, threshold=1e-9)
        counts += [sum(s.block_start == e.position for s in blocks(steps)) for e in speech]
    # A position whose prediction is the mask itself stays open for another pass.
    assert counts.count(1) > 0.5 * len(counts) > 5


def test_a_threshold_between_saves_some_passes_but_never_adds_one() -> None:
    fewer = 0
    for model, prompt, _ in cases(40):
        _, steps, speech = run(model, prompt, CONFIG, threshold=0.5)
        for event in speech:
            passes = sum(s.block_start == event.position for s in blocks(steps))
            assert 1 <= passes <= 4
            fewer += passes < 4
    assert fewer > 20


def test_the_end_slot_lengthens_a_spans_first_block_only() -> None:
    seen = set()
    for model, prompt, _ in cases(40):
        ids, steps, _ = run(model, prompt, CONFIG, end_slot=True, constrained_heads=True)
        whole = [*prompt, *ids]
        for step in blocks(steps):
            first = whole[step.block_start - 1] in LAYOUT.begin_ids
            assert step.stop - step.block_start == CONFIG.block_length + first
            seen.add(first)
    assert seen == {True, False}


def test_options_and_their_names() -> None:
    assert parse_approximations([], "exact") is None
    assert parse_approximations(
        ["end_slot", "delayed-cache=on", "constrained_heads=off"], "fast"
    ) == (Approximations(constrained_heads=False, end_slot=True, delayed_cache=True))
    assert parse_approximations(["threshold=0.9", "guidance=off"], "fast") == Approximations(
        threshold=0.9, guidance="off"
    )


@pytest.mark.parametrize(
    ("items", "word"),
    [
        (["speedy"], "unknown fast option 'speedy'; known: constrained_heads, guidance"),
        (["end_slot=maybe"], "expected on or off"),
        (["end_slot", "end_slot"], "twice"),
        (["threshold"], "needs a number"),
        (["threshold=nan"], "threshold is nan"),
        (["threshold=1.5"], "threshold is 1.5"),
        (["guidance=some"], "guidance is 'some'"),
        (["early_end"], "early_end was removed"),
        (["block_growth=2"], "block_growth was removed"),
    ],
)
def test_wrong_options_are_one_line_errors(items: list[str], word: str) -> None:
    with pytest.raises(ConfigError, match=word) as caught:
        parse_approximations(items, "fast")
    assert "\n" not in str(caught.value)


def test_approximations_need_fast() -> None:
    with pytest.raises(ConfigError, match="needs --exactness fast"):
        parse_approximations(["end_slot"], "exact")
