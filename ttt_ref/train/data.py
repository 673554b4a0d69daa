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


def read_examples(path: Path, start: Start) -> Iterator[Example]:
    """Tokenize a json, jsonl or parquet file. Errors: DataError, naming file and record."""
    options = PreprocessConfig(max_len=_WHOLE, quad_span_truncation_prob=0.0)
    encoder = Encoder(start.tokenizer, options)
    rng = random.Random(0)  # asked for each answer, decides nothing at probability 0
    for index, record in enumerate(read_records(path)):
        try:
            example = encoder.encode(record, rng)
        except DataError as error:
            raise DataError(f"{path}: record {index}: {error}") from None
        labels = np.asarray(example.labels, np.int32)
        yield Example(np.asarray(example.ids, np.int32), labels != IGNORE, example.prompt_length)


def _open(items: Iterable[DataFile], config: TrainConfig, start: Start) -> list[Store]:
    cache = Path(config.batch.cache_dir or Path(config.output_dir) / "cache")
    stores = []
    for item in items:
        path = Path(item.path)
        if not path.exists():
            raise FileNotFoundError(2, "no such file", str(path))
        read = functools.partial(read_examples, start=start)
        folder = build_store(path, start.tokenizer_dir, cache, read)
        stores.append(open_store(folder, item.name or path.stem))
    return stores


def open_data(config: TrainConfig, start: Start) -> tuple[list[Store], list[Store]]:
    """Return the stores of `[[data]]` and of `[[eval_data]]`, tokenizing what is new."""
    return _open(config.data, config, start), _open(config.eval_data, config, start)
