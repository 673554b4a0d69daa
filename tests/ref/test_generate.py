"""Sampling properties and the rules of the loop that the greedy golden cases do not reach."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ttt_ref.config import GenerationConfig
from ttt_ref.errors import ConfigError
from ttt_ref.generate import choose_text, filter_top, generate

DRAWS = 4000


class Scripted:
    """A model that says what it is told: a table of logits per position, whatever the ids.

    ``text`` are the ids it wants from text decisions, in order; ``block(ids)`` gives the logits
    [L, V] of a pass in which masks are open.
    """

    def __init__(self, layout, text=(), block=None):
        self.layout, self.text, self.block = layout, list(text), block
        self.device = torch.device("cpu")
        self.calls = []

    def hidden(self, ids, attend):
        self.calls.append(ids.clone())
        rows, length = ids.shape
        logits = torch.zeros(rows, length, self.layout.vocab_size)
        in_span = (ids[0] == self.layout.mask_id).any() or self.layout.is_code(int(ids[0, -1]))
        if in_span:
            for row in range(rows):
                logits[row] = self.block(ids[row])
        else:
            logits[0, -1, self.text.pop(0)] = 9.0
        return logits

    def logits(self, hidden):
        return hidden


def all_codes(layout, end=None):
    """Logits that want code 1 everywhere, and an end token at one offset from the back."""

    def block(ids):
        logits = torch.zeros(len(ids), layout.vocab_size)
        logits[:, layout.code_to_id(1)] = 5.0
        if end is not None:
            offset, token = end
            logits[-offset, token] = 9.0
        return logits

    return block


def blocks_of(size, steps=1, runs=1, **options):
    return GenerationConfig(
        block_length=size,
        diffusion_gen_length=size * runs,
        diffusion_steps=steps * runs,
        **options,
    )


probabilities = st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=12).map(
    lambda values: torch.tensor(values) / sum(values)
)


@settings(deadline=None, max_examples=60)
@given(probabilities, st.integers(1, 15), st.floats(0.05, 0.99))
def test_filter_keeps_the_likeliest_mass(p, top_k, top_p):
    kept = filter_top(p, top_k, top_p)
    assert kept.sum().item() == pytest.approx(1.0, abs=1e-5)
    chosen = kept > 0
    count = int(chosen.sum())
    assert 1 <= count <= min(top_k, len(p))
    assert p[chosen].min() >= p.sort(descending=True).values[count - 1] - 1e-7
    # Minimal: without its least likely member the set has not yet reached top_p.
    assert p[chosen].sum() - p[chosen].min() < top_p + 1e-5
    torch.testing.assert_close(kept[chosen], p[chosen] / p[chosen].sum())


def test_top_p_counts_the_mass_left_by_top_k_without_renormalising():
    p = torch.tensor([0.4, 0.3, 0.2, 0.1])
    # Mass before the second id is 0.4; renormalised over two ids it would be 0.57.
    assert (filter_top(p, 2, 0.5) > 0).tolist() == [True, True, False, False]
    assert (filter_top(p, None, 0.35) > 0).tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"ar_temperature": 1.0}, [0.5, 0.3, 0.15, 0.05]),
        ({"ar_temperature": 0.5}, [0.25, 0.09, 0.0225, 0.0025]),
        ({"top_k": 2}, [0.5, 0.3, 0.0, 0.0]),
        ({"top_p": 0.6}, [0.5, 0.3, 0.0, 0.0]),
        ({"top_k": 3, "top_p": 0.99, "ar_temperature": 2.0}, [0.5**0.5, 0.3**0.5, 0.15**0.5, 0]),
    ],
)
def test_text_is_drawn_from_the_stated_distribution(options, expected):
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    config, generator = GenerationConfig(**options), torch.Generator().manual_seed(0)
    counts = torch.zeros(4)
    for _ in range(DRAWS):
        counts[choose_text(logits, config, generator)] += 1
    expected = torch.tensor(expected) / sum(expected)
    assert (counts[expected == 0] == 0).all()
    torch.testing.assert_close(counts / DRAWS, expected, atol=0.03, rtol=0)


def test_greedy_text_draws_nothing():
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    assert choose_text(torch.tensor([0.0, 2.0, 1.0]), GenerationConfig(), generator) == 1
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.5])
def test_gumbel_noise_draws_speech_at_its_temperature(tiny, temperature):
    """At temperature T the chosen id follows softmax(logits / T); at 0 it is the argmax."""
    layout = tiny.layout
    codes = [layout.code_to_id(code) for code in range(3)]
    wanted = torch.tensor([0.6, 0.3, 0.1])

    def block(ids):
        logits = torch.full((len(ids), layout.vocab_size), -40.0)
        logits[:, codes] = wanted.log()
        return logits

    model = Scripted(layout, text=[layout.begin_of_audio_id], block=block)
    size = 1000
    config = blocks_of(size, max_gen_len=2, diffusion_temperature=temperature)
    new_ids = generate(model, layout, [0], config, generator=torch.Generator().manual_seed(1))
    share = torch.tensor([new_ids[1:].count(code) / size for code in codes])
    if temperature == 0:
        expected = torch.tensor([1.0, 0.0, 0.0])
    else:
        expected = wanted ** (1 / temperature) / (wanted ** (1 / temperature)).sum()
    torch.testing.assert_close(share, expected, atol=0.05, rtol=0)


def test_random_remasking_reveals_any_position(tiny):
    layout = tiny.layout
    first_revealed = torch.zeros(4)
    for seed in range(400):
        steps = []
        model = Scripted(layout, [layout.begin_of_audio_id], all_codes(layout))
        config = blocks_of(4, steps=4, max_gen_len=2, remasking="random")
        generator = torch.Generator().manual_seed(seed)
        generate(model, layout, [0], config, generator=generator, trace=steps.append)
        first_revealed[steps[0].ids_after.index(layout.code_to_id(1))] += 1
    torch.testing.assert_close(first_revealed / 400, torch.full((4,), 0.25), atol=0.08, rtol=0)


def test_equal_confidences_reveal_from_the_left(tiny):
    steps = []
    model = Scripted(tiny.layout, [tiny.layout.begin_of_quad_id], all_codes(tiny.layout))
    config = blocks_of(5, steps=3, max_gen_len=2)
    generate(model, tiny.layout, [0], config, trace=steps.append)
    code, mask = tiny.layout.code_to_id(1), tiny.layout.mask_id
    assert [step.count for step in steps] == [2, 2, 1]
    assert [step.ids_after for step in steps] == [
        [code] * 2 + [mask] * 3,
        [code] * 4 + [mask],
        [code] * 5,
    ]


def test_idle_steps_when_there_are_more_steps_than_positions(tiny):
    steps = []
    model = Scripted(tiny.layout, [tiny.layout.begin_of_quad_id], all_codes(tiny.layout))
    generate(model, tiny.layout, [0], blocks_of(2, steps=5, max_gen_len=2), trace=steps.append)
    assert [step.count for step in steps] == [1, 1, 0, 0, 0]


def test_sampling_is_fixed_by_its_generator(tiny):
    config = GenerationConfig(
        max_gen_len=40,
        diffusion_steps=4,
        diffusion_gen_length=16,
        block_length=8,
        ar_temperature=1.0,
        diffusion_temperature=0.7,
        cfg_scale=0.3,
        remasking="random",
        top_k=50,
    )
    prompt = [tiny.layout.im_start_id, 5, tiny.layout.begin_of_audio_id]

    def run(seed):
        generator = torch.Generator().manual_seed(seed)
        return generate(tiny.model, tiny.layout, prompt, config, generator=generator)

    assert run(1) == run(1)
    assert len({tuple(run(seed)) for seed in range(4)}) > 1


def test_im_end_is_banned_for_some_text_after_a_span(tiny):
    layout = tiny.layout
    end = (1, layout.end_of_audio_new_id)

    class WantsToStop(Scripted):
        def hidden(self, ids, attend):
            logits = super().hidden(ids, attend)
            logits[..., layout.im_end_id] += 100.0  # in text and in the span alike
            return logits

    def run(minimum):
        text = [layout.begin_of_audio_id] + [7] * 9
        model = WantsToStop(layout, text, all_codes(layout, end))
        # The first text decision must not be the stop: a begin token needs the ban as well.
        config = blocks_of(3, max_gen_len=30, min_text_tokens_after_audio=minimum)
        return generate(model, layout, [0], config)

    assert run(0) == [layout.im_end_id]

    class StartsWithSpan(WantsToStop):
        def hidden(self, ids, attend):
            if len(self.calls) == 0:
                return Scripted.hidden(self, ids, attend)
            return super().hidden(ids, attend)

    for minimum in (0, 1, 3):
        model = StartsWithSpan(layout, [layout.begin_of_audio_id] + [7] * 9, all_codes(layout, end))
        config = blocks_of(3, max_gen_len=30, min_text_tokens_after_audio=minimum)
        code = layout.code_to_id(1)
        span = [layout.begin_of_audio_id, code, code, end[1]]
        assert generate(model, layout, [0], config) == span + [7] * minimum + [layout.im_end_id]


@pytest.mark.parametrize("offset", [1, 2, 4])
def test_span_is_cut_after_its_first_end(tiny, offset):
    layout = tiny.layout
    model = Scripted(
        layout,
        [layout.begin_of_quad_id, 9, layout.im_end_id],
        all_codes(layout, (offset, layout.end_of_audio_span_last_id)),
    )
    new_ids = generate(model, layout, [0], blocks_of(4, max_gen_len=50))
    codes = [layout.code_to_id(1)] * (4 - offset)
    last = [layout.end_of_audio_span_last_id, 9, layout.im_end_id]
    assert new_ids == [layout.begin_of_quad_id, *codes, *last]


def test_max_gen_len_is_tested_only_before_a_run(tiny):
    layout = tiny.layout
    for limit, expected in ((0, 0), (1, 1), (2, 9), (9, 9), (10, 17)):
        model = Scripted(layout, [layout.begin_of_audio_id], all_codes(layout))
        config = blocks_of(4, runs=2, max_gen_len=limit)
        assert len(generate(model, layout, [0, 1], config)) == expected


def test_guidance_masks_everything_before_the_block(tiny):
    layout = tiny.layout
    model = Scripted(layout, [layout.begin_of_audio_id], all_codes(layout))
    generate(model, layout, [3, 4], blocks_of(2, steps=2, max_gen_len=2, cfg_scale=0.5))
    for ids in model.calls[1:]:
        assert ids.shape == (2, 5)
        assert (ids[1, :3] == layout.mask_id).all()
        assert torch.equal(ids[0, 3:], ids[1, 3:])
    assert model.calls[2][1, 3:].tolist() != [layout.mask_id] * 2


def test_uneven_lengths_fail_only_when_a_span_starts(tiny):
    layout = tiny.layout
    uneven = GenerationConfig(block_length=5, diffusion_gen_length=8, max_gen_len=9)
    silent = Scripted(layout, [7, layout.im_end_id])
    assert generate(silent, layout, [0], uneven) == [7, layout.im_end_id]
    with pytest.raises(ConfigError, match="divisible"):
        generate(Scripted(layout, [7, layout.begin_of_audio_id]), layout, [0], uneven)


def test_prompt_that_ends_with_a_begin_token_still_starts_with_text(tiny):
    layout = tiny.layout
    model = Scripted(layout, [layout.im_end_id])
    new_ids = generate(model, layout, [layout.begin_of_audio_id], GenerationConfig())
    assert new_ids == [layout.im_end_id]


@pytest.mark.parametrize(("prompt", "words"), [([], "empty"), ([330], "330"), ([-1], "-1")])
def test_prompts_that_cannot_be_fed(tiny, prompt, words):
    with pytest.raises(ConfigError, match=words):
        generate(tiny.model, tiny.layout, prompt, GenerationConfig())


def test_no_gradient_is_recorded(tiny):
    seen = []
    hook = tiny.model.model.norm.register_forward_hook(
        lambda module, args, out: seen.append(out.requires_grad)
    )
    generate(tiny.model, tiny.layout, [1, 2], GenerationConfig(max_gen_len=2))
    hook.remove()
    assert seen
    assert not any(seen)
