"""Each approximation of `fast` alone: what it does, and how near it stays to `exact`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.decode.test_engine import cases
from tests.runtime.toy import ToyModel, ToyRunner, oracle, toy_layout
from ttt_ref.config import GenerationConfig
from ttt_ref.errors import ConfigError
from ttt_runtime.decode.approximations import EXACT, Approximations, parse_approximations
from ttt_runtime.decode.code_prior import CodePrior
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


def test_early_end_saves_passes_and_changes_no_greedy_id() -> None:
    saved = 0
    for model, prompt, config in cases(80):
        expected, all_steps, _ = run(model, prompt, config)
        ids, steps, _ = run(model, prompt, config, early_end=True)
        assert ids == expected == oracle(model, prompt, config)
        saved += len(all_steps) - len(steps)
    assert saved > 20


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


def test_frozen_blocks_run_each_block_with_the_one_before_at_most() -> None:
    """And the commit computes the span anew: the next turn equals that of an exact cache."""
    rows_saved = committed = 0
    for model, prompt, _ in cases(60):
        config = dataclasses.replace(CONFIG, diffusion_steps=8)
        _, exact_steps, _ = run(model, prompt, config, constrained_heads=True)
        fast = Approximations(frozen_blocks=True)
        engine = SpeechEngine(ToyRunner(model), LAYOUT, exactness="fast", fast=fast)
        steps: list[Step] = []
        ids = engine.generate_ids(prompt, config)
        engine.reset()
        for _ in engine.generate(
            prompt, config, observer=lambda s, *_, steps=steps: steps.append(s)
        ):
            pass
        for step in blocks(steps):
            first = step.block_step == 0
            assert step.stop - step.start <= (2 if first else 1) * config.block_length + 1
        rows = [sum(s.stop - s.start for s in blocks(x)) for x in (exact_steps, steps)]
        rows_saved += rows[0] - rows[1]
        spans_end = [s.state for s in steps].count(State.COMMIT)
        follow_up = [*prompt, *ids, 4, 1, 2]
        if spans_end and not LAYOUT.is_audio(ids[-1]):
            committed += 1
            engine.exactness = "exact"
            engine._options = EXACT  # the kept cache must now serve exact choices
            assert engine.generate_ids(follow_up, config) == oracle(model, follow_up, config)
    assert rows_saved > 500
    assert committed >= 3


def test_frozen_blocks_change_nothing_in_a_span_of_one_block() -> None:
    for model, prompt, config in cases(40):
        expected, _, speech = run(model, prompt, config)
        if all(e.ends_span for e in speech):
            assert run(model, prompt, config, frozen_blocks=True)[0] == expected


def test_blocks_grow_in_the_last_span_only() -> None:
    grown = plain = 0
    for model, prompt, _ in cases(60):
        config = dataclasses.replace(CONFIG, diffusion_gen_length=64, diffusion_steps=64)
        ids, steps, _ = run(model, prompt, config, block_growth=2.0, constrained_heads=True)
        lengths: dict[int, int] = {}
        for step in blocks(steps):
            lengths.setdefault(step.block_start, step.stop - step.block_start)
        whole = [*prompt, *ids]
        previous = 0
        for start, length in lengths.items():
            begin = whole[start - 1]
            if begin in LAYOUT.begin_ids:
                assert length == config.block_length
                growth = 2 if begin == LAYOUT.begin_of_quad_id else 1
            else:
                assert length == min(previous * growth, 4 * config.block_length)
                grown += growth > 1
                plain += growth == 1
            previous = length
    assert grown > 10
    assert plain > 0


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


def test_a_prior_ranks_rare_codes_first() -> None:
    table = (8.0, *[1.0] * (LAYOUT.num_codes - 1))
    prior = CodePrior(LAYOUT, 1.0, table)
    ids, confidence = np.array([CODE, CODE + 1, NEW]), np.array([0.5, 0.3, 0.3], np.float32)
    frequent, rare, end = prior.score(ids, confidence)
    assert rare > frequent
    assert end == pytest.approx(np.log(0.3))  # not a code: left as it is
    share = np.array(table) / sum(table) * LAYOUT.num_codes
    assert frequent == pytest.approx(np.log(0.5) - np.log(share[0]))
    assert rare == pytest.approx(np.log(0.3) - np.log(share[1]))
    half = CodePrior(LAYOUT, 0.0, table).score(ids, confidence)
    np.testing.assert_allclose(half, np.log(confidence))


def test_the_running_prior_counts_what_was_revealed() -> None:
    prior = CodePrior(LAYOUT, 1.0, None)
    ids, confidence = np.array([CODE, CODE + 1]), np.array([0.4, 0.4], np.float32)
    first = prior.score(ids, confidence)
    assert first[0] == first[1] == pytest.approx(np.log(0.4))
    prior.note([CODE, CODE, NEW, MASK])
    after = prior.score(ids, confidence)
    assert after[0] < first[0] < after[1]


def test_a_prior_changes_the_order_but_an_even_table_does_not() -> None:
    changed = 0
    even = (1.0,) * LAYOUT.num_codes
    for model, prompt, config in cases(40):
        expected, _, _ = run(model, prompt, config)
        assert run(model, prompt, config, prior="table", prior_table=even)[0] == expected
        changed += run(model, prompt, config, prior="running", prior_weight=5.0)[0] != expected
    assert changed > 0


def test_options_and_their_names(tmp_path: Path) -> None:
    table = tmp_path / "prior.json"
    table.write_text(json.dumps([1, 2.5]))
    assert parse_approximations([], "exact") is None
    assert parse_approximations(
        ["early_end", "frozen-blocks=on", "constrained_heads=off"], "fast"
    ) == (Approximations(constrained_heads=False, early_end=True, frozen_blocks=True))
    assert parse_approximations(
        ["threshold=0.9", "guidance=off", "prior=running"], "fast"
    ) == Approximations(threshold=0.9, guidance="off", prior="running")
    parsed = parse_approximations(
        [f"prior={table}", "prior_weight=0.5", "block_growth=1.5"], "fast"
    )
    assert parsed == Approximations(
        prior="table", prior_table=(1.0, 2.5), prior_weight=0.5, block_growth=1.5
    )


@pytest.mark.parametrize(
    ("items", "word"),
    [
        (["speedy"], "unknown fast option 'speedy'; known: constrained_heads, guidance"),
        (["early_end=maybe"], "expected on or off"),
        (["early_end", "early_end"], "twice"),
        (["threshold"], "needs a number"),
        (["threshold=nan"], "threshold is nan"),
        (["threshold=1.5"], "threshold is 1.5"),
        (["block_growth=9"], "block_growth is 9.0"),
        (["guidance=some"], "guidance is 'some'"),
        (["prior"], "needs a value"),
        (["prior=table"], "a table of code weights"),
        (["prior_weight=-1"], "prior_weight is -1.0"),
    ],
)
def test_wrong_options_are_one_line_errors(items: list[str], word: str) -> None:
    with pytest.raises(ConfigError, match=word) as caught:
        parse_approximations(items, "fast")
    assert "\n" not in str(caught.value)


def test_fast_options_need_fast_and_prior_tables_must_fit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs --exactness fast"):
        parse_approximations(["early_end"], "exact")
    bad = tmp_path / "bad.json"
    for text, word in (("{", "no JSON list"), ("[]", "must hold"), ("[1, -2]", "above 0")):
        bad.write_text(text)
        with pytest.raises(ConfigError, match=word):
            parse_approximations([f"prior={bad}"], "fast")
    short = Approximations(prior="table", prior_table=(1.0, 2.0))
    with pytest.raises(ConfigError, match="2 weights; this model has 6 codes"):
        SpeechEngine(ToyRunner(ToyModel(LAYOUT, 0)), LAYOUT, exactness="fast", fast=short)
