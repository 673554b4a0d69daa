"""Opening the data of a run: files in the released formats in, tokenized stores out."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ttt_ref.batch import IGNORE
from ttt_ref.data import read_records
from ttt_ref.errors import DataError
from ttt_ref.preprocess import Encoder, PreprocessConfig
from ttt_ref.train.config import DataFile, TrainConfig
from ttt_ref.train.start import Start
from ttt_ref.train.store import Example, Store, build_store, open_store

# Stores hold whole examples: cutting and truncation happen each time an example is drawn.
_WHOLE = 2**31 - 1


def read_examples(
    path: Path, start: Start, passed_over: list[str] | None = None
) -> Iterator[Example]:
    """Tokenize a json, jsonl or parquet file. Errors: DataError, naming file and record.

    With `passed_over`, records that cannot be used are left out and their errors appended to it.
    """
    options = PreprocessConfig(max_len=_WHOLE, quad_span_truncation_prob=0.0)
    encoder = Encoder(start.tokenizer, options)
    rng = random.Random(0)  # asked for each answer, decides nothing at probability 0
    for index, record in enumerate(read_records(path, passed_over)):
        try:
            example = encoder.encode(record, rng)
        except DataError as error:
            if passed_over is None:
                raise DataError(f"{path}: record {index}: {error}") from None
            passed_over.append(f"{path}: record {index}: {error}")
            continue
        labels = np.asarray(example.labels, np.int32)
        yield Example(np.asarray(example.ids, np.int32), labels != IGNORE, example.prompt_length)


def _open(items: Iterable[DataFile], config: TrainConfig, start: Start) -> list[Store]:
    cache = Path(config.batch.cache_dir or Path(config.output_dir) / "cache")
    stores = []
    for item in items:
        path = Path(item.path)
        if not path.exists():
            raise FileNotFoundError(2, "no such file", str(path))
        passed_over: list[str] | None = [] if config.skip_bad else None
        read = functools.partial(read_examples, start=start, passed_over=passed_over)
        folder = build_store(path, start.tokenizer_dir, cache, read, passed_over)
        stores.append(open_store(folder, item.name or path.stem))
    return stores


def open_data(config: TrainConfig, start: Start) -> tuple[list[Store], list[Store]]:
    """Return the stores of `[[data]]` and of `[[eval_data]]`, tokenizing what is new.

    Raises:
        DataError: a record that cannot be used, or training data of which nothing can be learnt.
    """
    training = _open(config.data, config, start)
    if all(_taught(store, config.batch.max_length) == 0 for store in training):
        names = ", ".join(item.path for item in config.data)
        raise DataError(f"{names}: nothing to learn; {_why(training, config.batch.max_length)}")
    return training, _open(config.eval_data, config, start)


def data_notes(stores: Iterable[Store], max_length: int) -> list[str]:
    """Return what a user should know of the data: records left out, examples that teach nothing."""
    notes = []
    for store in stores:
        if store.passed_over:
            notes.append(f"{store.name}: {store.passed_over} records that cannot be used left out")
        if _taught(store, max_length) < len(store):
            notes.append(f"{store.name}: {_why([store], max_length)}")
    return notes


def _taught(store: Store, max_length: int) -> int:
    """Count the examples with a trained token among their first `max_length`."""
    return int(((store.first_trained >= 0) & (store.first_trained < max_length)).sum())


def _why(stores: Iterable[Store], max_length: int) -> str:
    firsts = np.concatenate([store.first_trained for store in stores])
    reasons = []
    if without := int((firsts < 0).sum()):
        reasons.append(f"{without} of {len(firsts)} examples have no answer")
    if late := int((firsts >= max_length).sum()):
        reasons.append(
            f"in {late} of {len(firsts)} examples the answer begins behind the first {max_length} "
            "tokens (batch.max_length)"
        )
    return ", ".join(reasons)
