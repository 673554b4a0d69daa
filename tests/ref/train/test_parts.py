"""The parts of training, each against the plain mathematics or a hand-made case."""

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.ref.train.conftest import configure, record, settings
from ttt_ref.config import ModelConfig
from ttt_ref.errors import ConfigError, DataError
from ttt_ref.losses import batch_loss, draw_noise
from ttt_ref.mask import attend_mask
from ttt_ref.model import TttModel
from ttt_ref.preprocess import Encoder, PreprocessConfig
from ttt_ref.train.cli import app
from ttt_ref.train.collate import make_feed, noise_of, pad
from ttt_ref.train.config import (
    AugmentSection,
    ModelSection,
    ObjectiveSection,
    ScheduleSection,
    TrainConfig,
    from_mapping,
    read_config,
)
from ttt_ref.train.data import open_data, read_examples
from ttt_ref.train.ema import WeightAverage
from ttt_ref.train.fast import scored_hidden
from ttt_ref.train.objective import Objective, score
from ttt_ref.train.sampler import Position, Sampler
from ttt_ref.train.schedule import Schedule
from ttt_ref.train.start import Start, make_start
from ttt_ref.train.store import Example
from ttt_ref.train.transform import Disturbance, cut_last_spans, trained_runs

EXAMPLE = Path(__file__).parents[3] / "ttt_ref" / "train" / "example.toml"


@pytest.fixture
def start(world: Path) -> Start:
    return make_start(configure(world, world).model, seed=1)


@pytest.fixture
def examples(world: Path, start: Start) -> list[Example]:
    return list(read_examples(world / "train.jsonl", start))


# -- configuration -------------------------------------------------------------------------------


def test_the_example_file_is_valid_and_complete() -> None:
    config = read_config(EXAMPLE)
    text = EXAMPLE.read_text()
    for section in dataclasses.fields(config):
        value = getattr(config, section.name)
        keys = [f.name for f in dataclasses.fields(value)] if hasattr(value, "__slots__") else []
        if dataclasses.is_dataclass(value):
            keys = [f.name for f in dataclasses.fields(value)]
        for key in [*keys, section.name]:
            assert key in text, f"{section.name}.{key} is not explained in example.toml"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimiser": {}}, "unknown key `optimiser`; did you mean `optimizer`"),
        ({"optimizer": {"learnin_rate": 1.0}}, "unknown key `optimizer.learnin_rate`; did you"),
        ({"optimizer": {"learning_rate": "high"}}, "learning_rate is 'high'; expected float"),
        ({"seed": True}, "seed is True; expected int"),
        ({"precision": "int8"}, "precision is 'int8'"),
        ({"data": []}, "no training data"),
        ({"schedule": {}}, "max_steps or max_minutes"),
        ({"objective": {"accumulation": "wrong"}}, "objective.accumulation is 'wrong'"),
        ({"model": {}}, "exactly one of `checkpoint`"),
        ({"batch": {"tokens_per_batch": 10}}, "at least one example"),
        ({"optimizer": {"momentum": 1.0}}, "optimizer.momentum is 1.0; expected 0 to below 1"),
        ({"optimizer": {"momentum": -0.1}}, "optimizer.momentum is -0.1"),
        ({"optimizer": {"momentum": float("nan")}}, "optimizer.momentum is nan"),
        ({"optimizer": {"beta2": 1.0}}, "optimizer.beta2 is 1.0"),
        ({"optimizer": {"ema_decay": 1.0}}, "optimizer.ema_decay is 1.0"),
        ({"optimizer": {"weight_decay": -1.0}}, "optimizer.weight_decay is -1.0"),
    ],
)
def test_wrong_configurations_are_refused(
    world: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(TrainConfig, settings(world, world) | change)


def test_missing_key_is_named(world: Path) -> None:
    values = settings(world, world)
    del values["output_dir"]
    with pytest.raises(ConfigError, match="missing key `output_dir`"):
        from_mapping(TrainConfig, values)


def test_set_replaces_values() -> None:
    config = read_config(EXAMPLE, ["optimizer.learning_rate=5e-4", "seed=7", "output_dir=runs/x"])
    assert (config.optimizer.learning_rate, config.seed) == (5e-4, 7)
    assert config.output_dir == "runs/x"
    with pytest.raises(ConfigError, match="expected key=value"):
        read_config(EXAMPLE, ["seed"])


def test_the_command_tells_user_errors_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    for content in ("a = [", "bogus = 1", 'output_dir = "x"'):
        file.write_text(content)
        result = CliRunner().invoke(app, [str(file)])
        assert result.exit_code == 2
        assert len(result.stderr.strip().splitlines()) == 1
    assert CliRunner().invoke(app, [str(tmp_path / "none.toml")]).exit_code == 2


# -- model and loss ------------------------------------------------------------------------------


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
    trainer._reset_figures()
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
    trainer._train_step(0.0)
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


# -- data ----------------------------------------------------------------------------------------


def sampler_of(world: Path, start: Start, seed: int = 1, **changes: dict[str, Any]) -> Sampler:
    config = configure(world, world, **changes)
    stores, _ = open_data(config, start)
    return Sampler(
        stores, [1.0], seed, config.batch, config.objective, start.layout, config.augment
    )


def flat(batch: list[Example]) -> list[list[int]]:
    return [example.ids.tolist() for example in batch]


def test_batches_keep_the_budget_and_an_epoch_has_every_example(world: Path, start: Start) -> None:
    sampler = sampler_of(world, start, objective={"span_truncation_prob": 0.0})
    seen: list[str] = []
    while len(seen) < 60:
        batch = sampler.next_batch()
        assert len(batch) * max(len(example.ids) for example in batch) <= 512
        seen += [str(ids) for ids in flat(batch)]
    expected = [str(e.ids.tolist()) for e in read_examples(world / "train.jsonl", start)]
    assert sorted(seen) == sorted(expected)


def test_the_stream_continues_from_any_position(world: Path, start: Start) -> None:
    augment = {"user_code_flip": 0.3, "user_code_drop": 0.2, "user_code_repeat": 0.2}
    one, other = (sampler_of(world, start, augment=augment) for _ in range(2))
    for _ in range(9):
        one.next_batch()
    stored = one.position
    following = [flat(one.next_batch()) for _ in range(12)]
    assert stored.pool > 0
    other.seek(Position(stored.pool, tuple(stored.cursors), stored.batch))
    assert [flat(other.next_batch()) for _ in range(12)] == following
    assert flat(sampler_of(world, start, seed=2, augment=augment).next_batch()) != following[0]


def test_files_are_drawn_by_weight(world: Path, start: Start) -> None:
    config = configure(world, world)
    stores, held_out = open_data(config, start)
    sampler = Sampler(
        [*stores, *held_out],
        [3.0, 1.0],
        1,
        dataclasses.replace(config.batch, pool_examples=400),
        dataclasses.replace(config.objective, span_truncation_prob=0.0),
        start.layout,
    )
    dev = {str(e.ids.tolist()) for e in read_examples(world / "dev.jsonl", start)}
    drawn = 0
    from_dev = 0
    while drawn < 400:
        batch = flat(sampler.next_batch())
        drawn += len(batch)
        from_dev += sum(str(ids) in dev for ids in batch)
    assert 70 < from_dev < 130


@pytest.mark.parametrize("truncation", ["corrected", "released"])
def test_truncation_is_drawn_anew_or_kept(world: Path, start: Start, truncation: str) -> None:
    """The released loader caches: each example stays as it was cut first, in all epochs."""
    objective = {"span_truncation_prob": 0.7, "truncation": truncation}
    sampler = sampler_of(world, start, objective=objective, batch={"pool_examples": 60})
    epochs: list[list[str]] = []
    for _ in range(2):
        seen: list[str] = []
        while len(seen) < 60:
            seen += [str(ids) for ids in flat(sampler.next_batch())]
        epochs.append(sorted(seen))
    assert (epochs[0] == epochs[1]) == (truncation == "released")


def test_the_cut_is_one_of_those_that_preprocessing_makes(start: Start) -> None:
    rng = random.Random(4)
    options = PreprocessConfig(max_len=1000, quad_span_truncation_prob=1.0)
    whole = Encoder(start.tokenizer, dataclasses.replace(options, quad_span_truncation_prob=0.0))
    cutting = Encoder(start.tokenizer, options)
    turns = [record(rng)["messages"] for _ in range(3)]
    conversation = {"messages": [message for turn in turns for message in turn]}
    labels = np.asarray(whole.encode(conversation, rng).labels)
    ids = np.asarray(whole.encode(conversation, rng).ids, np.int32)
    example = Example(ids, labels != -100, 0)
    assert len(trained_runs(example.trained)) == 3
    possible = {tuple(cutting.encode(conversation, rng).ids) for _ in range(3000)}
    draw = np.random.default_rng(1)
    made = {
        tuple(cut_last_spans(example, 1.0, draw, start.layout).ids.tolist()) for _ in range(3000)
    }
    assert made == possible


def test_disturbance_touches_the_users_codes_only(start: Start, examples: list[Example]) -> None:
    section = AugmentSection(0.9, 0.0, 0.0, (3, 3, 3))
    rng = np.random.default_rng(1)
    changed = 0
    for example in examples[:20]:
        result = Disturbance(section, start.layout)(example, rng)
        different = result.ids != example.ids
        assert not (different & example.trained).any()
        codes = example.ids[different] - start.layout.code_offset
        others = result.ids[different] - start.layout.code_offset
        digits = [(codes // s % 3 != others // s % 3).astype(int) for s in (1, 3, 9)]
        assert (sum(digits) == 1).all()
        changed += int(different.sum())
    assert changed > 20
    section = AugmentSection(0.0, 0.8, 0.0)
    shorter = Disturbance(section, start.layout)(examples[0], np.random.default_rng(2))
    lost = len(examples[0].ids) - len(shorter.ids)
    assert lost > 0
    assert shorter.prompt_length == examples[0].prompt_length - lost
    assert shorter.ids[shorter.trained].tolist() == examples[0].ids[examples[0].trained].tolist()


def test_bad_data_names_file_and_record(world: Path, start: Start, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"text": "a"}\n{"nothing": 1}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl: record 1"):
        list(read_examples(file, start))
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    config = configure(world, tmp_path)
    config = dataclasses.replace(config, eval_data=(type(config.data[0])(str(empty)),))
    with pytest.raises(ConfigError, match="holds no examples"):
        open_data(config, start)


# -- schedule and average ------------------------------------------------------------------------


def test_schedule_by_steps_and_by_minutes() -> None:
    by_steps = Schedule(1.0, ScheduleSection(max_steps=110, warmup_steps=10, min_lr_ratio=0.1))
    assert by_steps.rate(0, 0.0) == pytest.approx(0.1)
    assert by_steps.rate(10, 1e9) == pytest.approx(1.0)
    assert by_steps.rate(60, 0.0) == pytest.approx(0.55)
    assert by_steps.rate(110, 0.0) == pytest.approx(0.1)
    assert by_steps.finished(110, 0.0)
    assert not by_steps.finished(109, 1e9)
    by_time = Schedule(1.0, ScheduleSection(max_minutes=1.0, warmup_steps=0, min_lr_ratio=0.0))
    assert by_time.rate(5, 30.0) == pytest.approx(0.5)
    assert by_time.finished(5, 60.0)


def test_the_average_follows_and_the_weights_come_back() -> None:
    layer = torch.nn.Linear(2, 2)
    first = layer.weight.detach().clone()
    average = WeightAverage(layer, 0.999)
    layer.weight.data.add_(1.0)
    average.update()
    with average.applied():
        torch.testing.assert_close(layer.weight.detach(), first + 1.0 - 2.0 / 11.0)
    torch.testing.assert_close(layer.weight.detach(), first + 1.0)
    again = WeightAverage(layer, 0.999)
    again.load_tensors(average.tensors())
    assert again.updates == 1
    assert all(torch.equal(a, b) for a, b in zip(again.shadow, average.shadow, strict=True))
