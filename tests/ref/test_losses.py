from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ttt_ref.batch import IGNORE, Batch, Example, collate, maskable_after_prompt
from ttt_ref.errors import ConfigError
from ttt_ref.losses import batch_loss, draw_noise, training_loss
from ttt_ref.mask import attend_mask
from ttt_ref.noise import NoiseConfig, Noised, add_noise, draw_path


def example(layout, seed, turns=3):
    """Text and spans in turn; the first text is the prompt."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high, count):
        return torch.randint(low, high, (count,), generator=generator).tolist()

    prompt = draw(0, 200, 5)
    ids = list(prompt)
    for _ in range(turns):
        codes = draw(layout.code_offset, layout.code_offset + layout.num_codes, 7)
        ids += [*draw(0, 200, 3), layout.begin_of_quad_id, *codes, layout.end_of_audio_new_id]
    ids.append(layout.im_end_id)
    labels = [IGNORE] * len(prompt) + ids[len(prompt) :]
    maskable = [position >= len(prompt) for position in range(len(ids))]
    return Example(ids, labels, maskable, len(prompt))


@pytest.fixture
def batch(tiny):
    layout = tiny.layout
    examples = [example(layout, seed, turns) for seed, turns in ((0, 3), (1, 1), (2, 4), (3, 2))]
    return collate(examples, layout.pad_id)


def plain_loss(model, layout, batch, noised):
    """The same losses from full logits, one token at a time."""
    fed = batch.ids if noised is None else noised.ids
    logits = model(fed, attend_mask(batch.ids, layout.audio_start, batch.key_mask))
    rows, length = batch.ids.shape
    text = speech = 0.0
    for b in range(rows):
        token_losses = [
            F.cross_entropy(logits[b, t], batch.labels[b, t + 1]).item()
            for t in range(length - 1)
            if batch.labels[b, t + 1] != IGNORE and batch.labels[b, t + 1] < layout.audio_start
        ]
        text += sum(token_losses) / max(len(token_losses), 1) / rows
        for t in range(length if noised is not None else 0):
            if noised.masked[b, t] and batch.labels[b, t] != IGNORE:
                loss = F.cross_entropy(logits[b, t], batch.labels[b, t]).item()
                speech += loss / float(noised.mask_prob[b] * noised.answer_tokens[b]) / rows
    return text, speech


@pytest.mark.parametrize("mode", ["ar", "diffusion"])
def test_loss_equals_the_plain_sum(tiny, batch, mode):
    model, _, layout = tiny
    noised = draw_noise(batch, layout, NoiseConfig(), torch.Generator().manual_seed(1), mode=mode)
    losses = batch_loss(model, layout, batch, noised)
    text, speech = plain_loss(model, layout, batch, noised)
    assert float(losses.text) == pytest.approx(text, rel=1e-5)
    assert float(losses.speech) == pytest.approx(speech, rel=1e-5)
    assert losses.loss.item() == pytest.approx(text + speech, rel=1e-5)


def test_gradient_reaches_every_weight(tiny, batch):
    model, _, layout = tiny
    generator = torch.Generator().manual_seed(1)
    losses = training_loss(model, layout, batch, NoiseConfig(), generator, mode="diffusion")
    losses.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_shards_of_a_batch_average_to_the_whole(tiny, batch):
    """Two processes that draw together and take half the rows each see the one-process loss."""
    model, _, layout = tiny
    noised = draw_noise(batch, layout, NoiseConfig(), torch.Generator().manual_seed(2), mode=None)
    assert noised is not None
    whole = batch_loss(model, layout, batch, noised).loss
    halves = [
        batch_loss(model, layout, batch.rows(part), noised.rows(part)).loss
        for part in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(sum(halves) / 2, whole, atol=1e-5, rtol=1e-5)


def test_padding_does_not_change_the_loss(tiny, batch):
    model, _, layout = tiny
    generator = torch.Generator().manual_seed(2)
    noised = add_noise(batch, layout, NoiseConfig(), generator)

    def widen(tensor, value):
        return F.pad(tensor, (0, 6), value=value)

    wide = Batch(
        widen(batch.ids, layout.pad_id),
        widen(batch.labels, IGNORE),
        widen(batch.key_mask, False),
        widen(batch.maskable, False),
    )
    wide_noised = Noised(widen(noised.ids, layout.pad_id), widen(noised.masked, False), *noised[2:])
    first = batch_loss(model, layout, batch, noised)
    second = batch_loss(model, layout, wide, wide_noised)
    torch.testing.assert_close(first.loss, second.loss, atol=1e-5, rtol=1e-5)


def test_batch_without_any_label_gives_zero_with_a_gradient(tiny):
    """A rank whose rows hold only prompts must still take part in the backward pass."""
    model, _, layout = tiny
    ids = torch.tensor([[1, 2, 3]])
    empty = Batch(
        ids, torch.full_like(ids, IGNORE), torch.ones_like(ids).bool(), torch.zeros(1, 3).bool()
    )
    losses = training_loss(model, layout, empty, NoiseConfig(), mode="diffusion")
    assert float(losses.loss.detach()) == 0.0
    losses.loss.backward()


@pytest.mark.parametrize(("items", "factor"), [(None, 1), (8, 0.5), (0, 1), (-3, 1)])
def test_num_items_in_batch(tiny, batch, items, factor):
    model, _, layout = tiny

    def loss(**options):
        return training_loss(model, layout, batch, NoiseConfig(), mode="ar", **options).loss

    torch.testing.assert_close(loss(num_items_in_batch=items), loss() * factor)
    ignored = torch.tensor(8)  # the Hugging Face trainer passes a tensor: released code ignores it
    torch.testing.assert_close(loss(num_items_in_batch=ignored), loss())


def test_evaluation_is_clean_unless_told(tiny, batch):
    model, _, layout = tiny
    always = NoiseConfig(unmasked_audio_prob=0.0)
    assert training_loss(model.eval(), layout, batch, always).path == "ar"
    assert training_loss(model, layout, batch, always, mode="diffusion").path == "diffusion"
    assert training_loss(model.train(), layout, batch, always).path == "diffusion"
    with pytest.raises(ConfigError, match="'clean'"):
        training_loss(model, layout, batch, always, mode="clean")


def test_share_of_clean_batches():
    generator = torch.Generator().manual_seed(0)
    config = NoiseConfig(unmasked_audio_prob=0.3)
    paths = [draw_path(config, generator) for _ in range(3000)]
    assert paths.count("ar") / len(paths) == pytest.approx(0.3, abs=0.03)


def test_only_answer_speech_is_masked(tiny, batch):
    layout = tiny.layout
    generator = torch.Generator().manual_seed(0)
    allowed = (batch.ids >= layout.audio_start) & batch.maskable & batch.key_mask
    shares = []
    for _ in range(300):
        noised = add_noise(batch, layout, NoiseConfig(prefix_preservation_ratio=0), generator)
        assert not (noised.masked & ~allowed).any()
        assert (noised.ids[noised.masked] == layout.mask_id).all()
        assert torch.equal(noised.ids[~noised.masked], batch.ids[~noised.masked])
        assert torch.equal(noised.answer_tokens, allowed.sum(1))
        shares.append(noised.masked.sum(1) / allowed.sum(1) - noised.mask_prob)
    # Each row is masked with its own probability: on average the two agree.
    assert torch.stack(shares).mean(0).abs().max() < 0.03


def test_prefix_preservation_keeps_whole_spans(tiny, batch):
    """Everything before a drawn span start stays clean and leaves the answer's length."""
    layout = tiny.layout
    generator = torch.Generator().manual_seed(0)
    is_audio = batch.ids >= layout.audio_start
    per_row = is_audio.sum(1)
    seen = [set() for _ in range(4)]
    for _ in range(200):
        noised = add_noise(batch, layout, NoiseConfig(prefix_preservation_ratio=1), generator)
        for row in range(4):
            left = int(noised.answer_tokens[row])
            assert left % 8 == 0  # a span has 7 codes and its end
            seen[row].add((int(per_row[row]) - left) // 8)
            first_maskable = is_audio[row].nonzero()[int(per_row[row]) - left]
            masked = noised.masked[row].nonzero()
            assert len(masked) == 0 or masked[0] >= first_maskable
    assert seen == [{0, 1, 2}, {0}, {0, 1, 2, 3}, {0, 1}]


def test_nothing_maskable_draws_nothing(tiny, batch):
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    silent = batch._replace(maskable=torch.zeros_like(batch.maskable))
    noised = add_noise(silent, tiny.layout, NoiseConfig(), generator)
    assert torch.equal(generator.get_state(), state)
    assert not noised.masked.any()
    assert noised.mask_prob.eq(1).all()
    assert noised.answer_tokens.eq(1).all()


def test_maskable_after_prompt():
    found = maskable_after_prompt(torch.tensor([0, 2, 9]), 3)
    assert found.tolist() == [[True] * 3, [False, False, True], [False] * 3]


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "0.1"])
def test_noise_config_refuses(value):
    with pytest.raises(ConfigError, match="prefix_preservation_ratio"):
        NoiseConfig(prefix_preservation_ratio=value)


def test_noise_config_of_a_checkpoint():
    config = NoiseConfig.from_config({"unmasked_audio_prob": 0.25, "hidden_size": 3})
    assert (config.unmasked_audio_prob, config.prefix_preservation_ratio) == (0.25, 0.3)
