"""From files to batches: budgets, resuming, truncation and disturbance."""

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ref.train.conftest import configure, record
from ttt_ref.errors import ConfigError, DataError
from ttt_ref.preprocess import Encoder, PreprocessConfig
from ttt_ref.train.config import AugmentSection
from ttt_ref.train.data import open_data, read_examples
from ttt_ref.train.sampler import Position, Sampler
from ttt_ref.train.start import Start
from ttt_ref.train.store import Example
from ttt_ref.train.transform import (
    Disturbance,
    cut_last_spans,
    overrun_last_span,
    trained_runs,
)


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


def test_a_span_that_runs_over_repeats_its_end_tag_and_nothing_else(
    start: Start, examples: list[Example]
) -> None:
    """Behind the end tag stands only the end tag, half of the time exactly to the block's end."""
    layout, block = start.layout, 27
    rng = np.random.default_rng(3)
    changed, to_brim, most = 0, 0, 0
    for example in examples * 20:
        result = overrun_last_span(example, 1.0, block, rng, layout)
        begins = np.flatnonzero(np.isin(example.ids, list(layout.begin_ids)) & example.trained)
        if len(begins) == 0:
            assert result is example
            continue
        first = int(begins[-1]) + 1
        end = first + int(np.flatnonzero(np.isin(example.ids[first:], list(layout.end_ids)))[0])
        extra = len(result.ids) - (end + 1)
        assert 0 <= extra <= block
        assert result.ids[: end + 1].tolist() == example.ids[: end + 1].tolist()
        assert set(result.ids[end:].tolist()) == {int(example.ids[end])}
        assert result.trained[: end + 1].tolist() == example.trained[: end + 1].tolist()
        assert result.trained[end:].all()
        assert result.ids.dtype == example.ids.dtype
        changed += 1
        to_brim += (len(result.ids) - first) % block == 0
        most = max(most, extra)
    assert changed > 100
    assert 0.4 < to_brim / changed < 0.75  # half by intent, and some of the uniform draws
    assert most == block


def test_no_span_runs_over_by_chance_or_when_sst_has_cut_it(
    start: Start, examples: list[Example]
) -> None:
    rng = np.random.default_rng(4)
    for example in examples:
        assert overrun_last_span(example, 0.0, 27, rng, start.layout) is example
        cut = cut_last_spans(example, 1.0, rng, start.layout)
        if len(cut.ids) < len(example.ids):
            assert overrun_last_span(cut, 1.0, 27, rng, start.layout) is cut
    text = Example(examples[0].ids, np.ones(len(examples[0].ids), bool), 0)
    assert overrun_last_span(text, 1.0, 27, rng, start.layout) is text


def test_the_sampler_lets_spans_run_over(world: Path, start: Start) -> None:
    longest = []
    for share in (0.0, 1.0):
        objective = {"span_truncation_prob": 0.0, "span_overrun_prob": share}
        sampler = sampler_of(world, start, objective=objective, batch={"pool_examples": 60})
        ends = list(start.layout.end_ids)
        seen = [ids for _ in range(4) for ids in flat(sampler.next_batch())]
        longest.append(max(sum(i in ends for i in ids) for ids in seen))
    assert longest[1] > longest[0] + 5


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
