"""Training data files (json, jsonl, parquet) and the dataset over them.

Text is UTF-8, with or without a byte-order mark, or UTF-16 and UTF-32 with one (as PowerShell
writes them); nothing else is guessed.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch.utils.data import Dataset

from ttt_ref.batch import Example
from ttt_ref.bounded import (
    RECORDS_BYTES,
    Unreadable,
    check_plain,
    parse_json,
    read_json,
    read_lines,
)
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


def read_records(path: str | Path, passed_over: list[str] | None = None) -> list[Record]:
    """Read all records of a ``.json`` (a list), ``.jsonl`` or ``.parquet`` file.

    Args:
        path: the file.
        passed_over: if given, lines and records that cannot be used are left out and their errors
            appended here, in place of being raised.

    Raises:
        DataError: another file type, or content that cannot be read.
        FileNotFoundError: there is no such file.
    """
    file = Path(path)
    readers = {".json": _read_json, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    errors: list[str] = []
    if file.suffix not in readers:
        raise DataError(f"{file}: unknown type {file.suffix!r}; expected {', '.join(readers)}")
    if not file.exists():
        raise FileNotFoundError(2, "no such file", str(file))
    records = readers[file.suffix](file, errors)
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            errors.append(f"{file}: record {index} is no table but {type(record).__name__}")
    if errors and passed_over is None:
        raise DataError(errors[0])
    if passed_over is not None:
        passed_over += errors
    return [record for record in records if isinstance(record, dict)]


def read_sources(path: str | Path, rng: random.Random) -> list[Record]:
    """Read a data configuration: a JSON list of ``{"path": ..., "sample_ratio": ...}``.

    Each file is shuffled and its share is taken; paths are relative to the configuration, unless
    absolute. Other keys of an entry (names, notes) are passed over.
    """
    config = Path(path)
    entries = _read_json(config, [])
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


def _read_json(file: Path, errors: list[str]) -> list[Any]:
    content = read_json(file, RECORDS_BYTES, DataError, most_values=RECORDS_BYTES)
    if not isinstance(content, list):
        raise DataError(f"{file} must hold a list of records, got {type(content).__name__}")
    return content


def _read_jsonl(file: Path, errors: list[str]) -> list[Any]:
    records: list[Any] = []
    for number, line in enumerate(read_lines(file), start=1):
        if not line.strip():
            continue
        try:
            records.append(parse_json(line))
        except Unreadable as reason:
            errors.append(f"{file} line {number} is not valid JSON ({reason})")
    return records


def _read_parquet(file: Path, errors: list[str]) -> list[Any]:
    """Read a parquet file; a conversation may be a list or, as released, a JSON string."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{file}: reading parquet needs pyarrow; {install_command('train')}"
        ) from None
    check_plain(file)
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
                    record[key] = parse_json(record[key])
                except Unreadable as reason:
                    errors.append(
                        f"{file}: {key} of record {len(records)} is not valid JSON ({reason})"
                    )
        records.append(record)
    return records
