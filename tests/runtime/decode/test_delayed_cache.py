"""The option `delayed_cache`: a revealed position is computed once more, then its K/V are kept."""

from __future__ import annotations

import dataclasses

import numpy as np

from tests.runtime.decode.test_approximations import CONFIG, LAYOUT, MASK, blocks, run
from tests.runtime.decode.test_engine import cases
from tests.runtime.toy import LAYERS, Array, ToyModel, ToyRunner, oracle
from ttt_runtime.decode.approximations import Approximations
from ttt_runtime.decode.engine import SpeechEngine
from ttt_runtime.decode.events import SpeechEvent
from ttt_runtime.decode.scheduler import State, Step

SLOW = dataclasses.replace(CONFIG, diffusion_steps=16)  # 4 passes a block of 4
QUICK = dataclasses.replace(CONFIG, diffusion_steps=8)  # 2 passes
ON = {"delayed_cache": True, "constrained_heads": True}


class ByPosition(ToyRunner):
    """Holds every forward to K/V that are stored by position, in no order at all.

    This is the definition: a pass computes some positions of the open span, the others keep what
    they had. In which rows of a cache they lie must not matter.
    """

    def __init__(self, model: ToyModel) -> None:
        super().__init__(model)
        self.stored: list[dict[int, tuple[Array, Array]]] = [{} for _ in range(LAYERS)]
        self.kept_passes = 0

    def forward(self, ids, start, *, positions=None, scratch=False):  # type: ignore[no-untyped-def]
        hidden = super().forward(ids, start, positions=positions, scratch=scratch)
        if not scratch:
            at = list(range(start, start + len(ids))) if positions is None else list(positions)
            np.testing.assert_allclose(hidden, self.expected(ids, at, start), atol=1e-9)
        return hidden

    def expected(self, ids: list[int], at: list[int], start: int) -> Array:
        is_audio = self.model.layout.is_audio
        stop = start + len(ids)
        kept = [p for p in range(stop) if p not in at]
        assert len(kept) == start, "as many rows of the cache are kept as lie before these"
        self.kept_passes += any(p > min(at) for p in kept)
        columns = kept + at
        sees = np.zeros((len(at), len(columns)), bool)
        sees[:, : len(kept)] = True
        for i in range(len(at)):
            for j in range(len(at)):
                between = ids[min(i, j) : max(i, j) + 1]
                sees[i, len(kept) + j] = j <= i or all(is_audio(t) for t in between)
        x = self.model.table[list(ids)]
        for layer in range(LAYERS):
            q, k, v = self.model.project(layer, x, np.array(at))
            store = self.stored[layer]
            keys = np.stack([*(store[p][0] for p in kept), *k])
            values = np.stack([*(store[p][1] for p in kept), *v])
            for p in [p for p in store if p not in kept]:
                del store[p]
            store.update({p: (k[i], v[i]) for i, p in enumerate(at)})
            x = self.model.attend(layer, x, q, keys, values, sees)
        return self.model.final(x)


def test_every_pass_gives_what_its_definition_gives() -> None:
    passes = 0
    for model, prompt, _ in cases(40):
        runner = ByPosition(model)
        fast = Approximations(delayed_cache=True)
        engine = SpeechEngine(runner, LAYOUT, exactness="fast", fast=fast)
        engine.generate_ids(prompt, SLOW)
        passes += runner.kept_passes
    assert passes > 50


def test_a_position_is_computed_once_more_after_it_was_revealed() -> None:
    seen = 0
    for model, prompt, _ in cases(40):
        # How often each position of the open span was computed with its code.
        computed: dict[int, int] = {}
        engine = SpeechEngine(
            ToyRunner(model), LAYOUT, exactness="fast", fast=Approximations(delayed_cache=True)
        )
        forward = engine.runner.forward

        def watched(ids, start, *, positions=None, scratch=False, at=computed, run=forward):  # type: ignore[no-untyped-def]
            if positions is None:
                at.clear()
            for token, position in zip(ids, positions or (), strict=False):
                at[position] = 0 if token == MASK else at.get(position, 0) + 1
            return run(ids, start, positions=positions, scratch=scratch)

        engine.runner.forward = watched  # type: ignore[method-assign]
        for event in engine.generate(prompt, SLOW):
            if isinstance(event, SpeechEvent):
                counts = [computed[p] for p in range(event.position, max(computed) + 1)]
                assert set(counts) <= {0, 1}  # 0: revealed by the last pass
                seen += counts.count(1)
    assert seen > 100


def test_two_passes_a_block_change_nothing_in_a_span_of_one_block() -> None:
    """The second pass computes what the first revealed: nothing is old yet."""
    same = 0
    for model, prompt, _ in cases(60):
        expected, _, speech = run(model, prompt, QUICK, constrained_heads=True)
        if speech and all(e.ends_span for e in speech):
            assert run(model, prompt, QUICK, **ON)[0] == expected
            same += 1
    assert same > 3


def test_rows_are_saved_and_the_next_turn_is_exact() -> None:
    saved = all_rows = committed = 0
    for model, prompt, _ in cases(60):
        _, exact_steps, _ = run(model, prompt, SLOW, constrained_heads=True)
        engine = SpeechEngine(
            ToyRunner(model), LAYOUT, exactness="fast", fast=Approximations(delayed_cache=True)
        )
        steps: list[Step] = []
        events = list(
            engine.generate(prompt, SLOW, observer=lambda s, *_, steps=steps: steps.append(s))
        )
        ids = [i for event in events for i in event.ids]
        rows = [sum(s.stop - s.start for s in blocks(x)) for x in (exact_steps, steps)]
        all_rows += rows[0]
        saved += rows[0] - rows[1]
        follow_up = [*prompt, *ids, 4, 1, 2]
        if any(s.state is State.COMMIT for s in steps) and not LAYOUT.is_audio(ids[-1]):
            committed += 1
            engine.choose("exact")  # the kept cache must now serve exact choices
            assert engine.generate_ids(follow_up, SLOW) == oracle(model, follow_up, SLOW)
    assert saved > 0.3 * all_rows
    assert committed >= 3


def test_it_goes_together_with_the_other_options() -> None:
    others = [
        {"threshold": 0.5},
        {"end_slot": True},
        {"guidance": "constant"},
        {"guidance": "full"},
    ]
    for number, (model, prompt, _) in enumerate(cases(35)):
        config = dataclasses.replace(SLOW, cfg_scale=0.5)
        ids, steps, speech = run(model, prompt, config, **{**ON, **others[number % len(others)]})
        assert len(ids) <= config.max_gen_len + 4 * config.block_length
        assert not speech or blocks(steps)
        for step in blocks(steps):
            assert len(set(step.order)) == len(step.order) == step.stop - step.start


def test_a_span_with_a_text_id_in_it_is_computed_as_ever() -> None:
    """Without constrained heads a block may reveal text: then only the plain order is right."""
    plain = 0
    for model, prompt, _ in cases(60):
        fast = Approximations(delayed_cache=True, constrained_heads=False)
        engine = SpeechEngine(ByPosition(model), LAYOUT, exactness="fast", fast=fast)
        steps: list[Step] = []
        for _ in engine.generate(prompt, SLOW, observer=lambda s, *_, at=steps: at.append(s)):
            pass  # the runner compares every pass with its definition
        plain += sum(not step.order for step in blocks(steps))
    assert plain > 10
