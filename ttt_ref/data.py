"""Training data files (json, jsonl, parquet) and the dataset over them."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch.utils.data import Dataset

from ttt_ref.batch import Example
from ttt_ref.errors import DataError
from ttt_ref.package import install_command
from ttt_ref.preprocess import Encoder, PreprocessConfig

Record = dict[str, Any]


class TttDataset(Dataset[Example]):
    """Records as examples, encoded when asked for.

    The draws of an example depend on (seed, epoch, index) only: the same in every process, every
    worker and after a resume. With ``truncation_draw="once"`` the epoch plays no part.
    """

    def __init__(
        self, records: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, config: PreprocessConfig
    ) -> None:
        self.records = records
        self.encoder = Encoder(tokenizer, config)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the draws; call it before the data loader starts its workers."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        """Return one example; DataError names the record if it cannot be used."""
        config = self.encoder.config
        epoch = self.epoch if config.truncation_draw == "per_epoch" else 0
        rng = random.Random(f"{config.seed}/{epoch}/{index}")
        try:
            return self.encoder.encode(self.records[index], rng)
        except DataError as error:
            raise DataError(f"record {index}: {error}") from None


def read_records(path: str | Path) -> list[Record]:
    """Read all records of a ``.json`` (a list), ``.jsonl`` or ``.parquet`` file.

    Raises:
        DataError: another file type, or content that cannot be read.
        FileNotFoundError: there is no such file.
    """
    file = Path(path)
    readers = {".json": _read_json, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if file.suffix not in readers:
        raise DataError(f"{file}: unknown type {file.suffix!r}; expected {', '.join(readers)}")
    if not file.exists():
        raise FileNotFoundError(2, "no such file", str(file))
    records = readers[file.suffix](file)
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            raise DataError(f"{file}: record {index} is no table but {type(record).__name__}")
    return records


def read_sources(path: str | Path, rng: random.Random) -> list[Record]:
    """Read a data configuration: a JSON list of ``{"path": ..., "sample_ratio": ...}``.

    Each file is shuffled and its share is taken; paths are relative to the configuration, unless
    absolute. Other keys of an entry (names, notes) are passed over.
    """
    config = Path(path)
    entries = _read_json(config)
    records: list[Record] = []
    for entry in entries:
        if not isinstance(entry, dict) or "path" not in entry:
            raise DataError(f"{config}: every entry needs a 'path'")
        try:
            ratio = float(entry.get("sample_ratio", 1.0))
        except (TypeError, ValueError):
            ratio = -1.0
        if not 0 <= ratio <= 1:
            raise DataError(
                f"{config}: sample_ratio {entry['sample_ratio']!r} of {entry['path']} must lie "
                "in 0..1"
            )
        if ratio == 0:
            continue
        found = read_records(config.parent / entry["path"])
        rng.shuffle(found)
        records += found[: int(len(found) * ratio)]
    return records


def _read_json(file: Path) -> list[Record]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{file} is not valid JSON ({error})") from None
    if not isinstance(content, list):
        raise DataError(f"{file} must hold a list of records, got {type(content).__name__}")
    return content


def _read_jsonl(file: Path) -> list[Record]:
    records: list[Record] = []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise DataError(f"{file} line {number} is not valid JSON ({error.msg})") from None
    return records


def _read_parquet(file: Path) -> list[Record]:
    """Read a parquet file; a conversation may be a list or, as released, a JSON string."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{file}: reading parquet needs pyarrow; {install_command('train')}"
        ) from None
    parquet: Any = pyarrow.parquet  # has no type information
    try:
        rows = parquet.read_table(file).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"{file} is no readable parquet file ({error})") from None
    records: list[Record] = []
    for row in rows:
        record = {key: value for key, value in row.items() if value is not None}
        for key in ("messages", "conversations"):
            if isinstance(record.get(key), str):
                try:
                    record[key] = json.loads(record[key])
                except json.JSONDecodeError as error:
                    raise DataError(
                        f"{file}: {key} of record {len(records)} is not valid JSON ({error.msg})"
                    ) from None
        records.append(record)
    return records
