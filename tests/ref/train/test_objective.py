"""What training computes, against the reference: forward, loss, accumulation."""

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.ref.train.conftest import configure
from ttt_ref.config import ModelConfig
from ttt_ref.errors import ConfigError
from ttt_ref.losses import batch_loss, draw_noise
from ttt_ref.mask import attend_mask
from ttt_ref.model import TttModel
from ttt_ref.train.collate import make_feed, noise_of, pad
from ttt_ref.train.config import ModelSection, ObjectiveSection
from ttt_ref.train.fast import scored_hidden
from ttt_ref.train.objective import Objective, score
from ttt_ref.train.sampler import Sampler
from ttt_ref.train.start import Start, make_start
from ttt_ref.train.store import Example


@pytest.mark.parametrize("tied", [True, False])
def test_the_fast_forward_equals_the_reference(tied: bool) -> None:
    torch.manual_seed(3)
    config = ModelConfig(32, 48, 3, 4, 2, 90, tie_word_embeddings=tied)
    model = TttModel(config)
    for parameter in model.parameters():
        parameter.data.normal_(0.0, 0.3)
    ids = torch.randint(0, 90, (3, 17))
    attend = attend_mask(ids, 40)
    rows = torch.tensor([0, 5, 16, 17, 50])
    results = []
    for hidden in (
        model.hidden(ids, attend).view(-1, 32)[rows],
        scored_hidden(model, ids, attend, rows),
    ):
        model.zero_grad()
        model.logits(hidden).sin().sum().backward()
        grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        results.append((hidden.detach(), grads))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-5, rtol=1e-5)
    assert results[0][1].keys() == results[1][1].keys()
    for name, grad in results[0][1].items():
        torch.testing.assert_close(grad, results[1][1][name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("by_rows", [True, False])
@pytest.mark.parametrize("mode", ["diffusion", "ar"])
@pytest.mark.parametrize("prompt_lengths", ["corrected", "released"])
def test_the_weighted_sum_equals_the_reference_loss(
    start: Start, examples: list[Example], by_rows: bool, mode: str, prompt_lengths: str
) -> None:
    section = ObjectiveSection(
        prompt_lengths=prompt_lengths, prefix_preservation_ratio=0.5, masked_predictors="released"
    )
    batch = pad(examples[:7], start.layout, prompt_lengths)
    generator = torch.Generator().manual_seed(5)
    noised = draw_noise(batch, start.layout, noise_of(section), generator, mode=mode)
    expected = batch_loss(start.model, start.layout, batch, noised)
    module = Objective(start.model, start.layout.audio_start, by_rows)
    feed = make_feed(batch, noised, start.layout, section, divisor=7)
    loss, statistics = score(module, feed)
    assert float(loss.detach()) == pytest.approx(float(expected.loss.detach()), rel=1e-5)
    assert float(statistics[0]) == pytest.approx(float(expected.text), rel=1e-5)
    assert float(statistics[1]) == pytest.approx(float(expected.speech), rel=1e-5, abs=1e-9)
    parts = [
        score(module, make_feed(batch, noised, start.layout, section, 7, process, 3))[0]
        for process in range(3)
    ]
    mean = float((sum(parts) / 3).detach())
    assert mean == pytest.approx(float(expected.loss.detach()), rel=1e-5)


def test_a_masked_end_tag_is_not_asked_for_the_text_behind_it(
    start: Start, examples: list[Example]
) -> None:
    """Both targets on the same logits: the trained model went on instead of ending its spans."""
    batch = pad(examples[:7], start.layout, "corrected")
    generator = torch.Generator().manual_seed(5)
    noise = noise_of(ObjectiveSection(prefix_preservation_ratio=0.0))
    noised = draw_noise(batch, start.layout, noise, generator, mode="diffusion")
    assert noised is not None

    def twice_asked(masked_predictors: str) -> int:
        section = ObjectiveSection(masked_predictors=masked_predictors)
        feed = make_feed(batch, noised, start.layout, section, divisor=7)
        rows = feed.rows.tolist()
        return len(rows) - len(set(rows))

    assert twice_asked("corrected") == 0
    assert twice_asked("released") > 0


def test_a_process_without_rows_takes_part_with_nothing(
    start: Start, examples: list[Example]
) -> None:
    section = ObjectiveSection()
    batch = pad(examples[:1], start.layout, "corrected")
    feed = make_feed(batch, None, start.layout, section, 1, process=1, processes=2)
    loss, _ = score(Objective(start.model, start.layout.audio_start, True), feed)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert all(
        float(p.grad.abs().sum()) == 0.0 for p in start.model.parameters() if p.grad is not None
    )


@pytest.mark.parametrize("accumulation", ["corrected", "released"])
def test_accumulation_averages_or_adds_up(
    world: Path, tmp_path: Path, accumulation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Corrected: one average over all rows. Released: the means of micro-batches add up."""
    from ttt_ref.train.trainer import Trainer

    config = configure(
        world,
        tmp_path / accumulation,
        optimizer={"accumulation_steps": 3, "max_grad_norm": 1e9},
        objective={"accumulation": accumulation, "unmasked_audio_prob": 1.0},
    )
    trainer = Trainer(config)
    trainer.reset_figures()
    model = trainer.start.model
    seen: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(
        trainer.optimizers[0],
        "step",
        lambda: seen.update({n: p.grad.clone() for n, p in model.named_parameters()}),
    )
    copy = Sampler(
        trainer.sampler.stores, [1.0], config.seed, config.batch, config.objective,
        trainer.start.layout,
    )  # fmt: skip
    micro = [copy.next_batch() for _ in range(3)]
    total = sum(len(m) for m in micro)
    trainer.train_step(0.0)
    model.zero_grad()
    for part in micro:
        batch = pad(part, trainer.start.layout, "corrected")
        loss = batch_loss(model, trainer.start.layout, batch, None).loss
        share = len(part) / total if accumulation == "corrected" else 1.0
        (loss * share).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(seen[name], parameter.grad, atol=1e-5, rtol=1e-4)


def test_fsq_start_puts_codes_with_shared_digits_close(start: Start) -> None:
    rows = start.model.model.embed_tokens.weight[start.layout.code_offset :][:27].detach()
    spread = start.model.config.initializer_range
    assert float(rows.std()) == pytest.approx(spread, rel=0.3)
    near, far = float((rows[0] - rows[1]).norm()), float((rows[0] - rows[1 + 3 + 9]).norm())
    assert near < 0.8 * far  # one digit differs, and all three
    # A sum of digits: the step from digit 0 to 1 is the same whatever the other digits are.
    torch.testing.assert_close(rows[1] - rows[0], rows[10] - rows[9], atol=1e-6, rtol=1e-4)
    section = ModelSection(tokenizer="x", fsq_levels=(3, 3))
    with pytest.raises(ConfigError, match="make 9 codes; the tokenizer has 27"):
        make_start(
            dataclasses.replace(section, tokenizer=str(start.tokenizer_dir), audio_init="fsq"), 1
        )
