"""The layouts in which corpora lie on disk, read into one list of items.

- Common Voice: `*.tsv` (validated.tsv, else train.tsv, else the only one) beside `clips/`;
- LJSpeech: `metadata.csv` without a header, fields divided by `|`, recordings in `wavs/`;
- a folder with `metadata.csv` (with a header) or `metadata.jsonl`;
- one or more `*.parquet` files with the sound inside, as the hub stores corpora.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttt_ref.bounded import RECORDS_BYTES, Unreadable, parse_json, read_text
from ttt_ref.errors import DataError
from ttt_ref.package import install_command

AUDIO_KEYS = ("file_name", "file", "path", "audio", "wav")
TEXT_KEYS = ("text", "transcript", "transcription", "sentence")
SPEAKER_KEYS = ("speaker", "speaker_id", "client_id")
ANSWER_KEYS = ("answer", "answer_text")
ANSWER_AUDIO_KEYS = ("answer_audio", "answer_file")
KNOWN = (
    "metadata.csv or metadata.jsonl, LJSpeech (metadata.csv with | and wavs/), Common Voice "
    "(validated.tsv and clips/), or *.parquet"
)


@dataclass(frozen=True)
class Sound:
    """A recording: a file, or row and column of a parquet file."""

    file: Path
    row: int = -1
    column: str = ""

    @property
    def name(self) -> str:
        """How it is named to people."""
        return str(self.file) if self.row < 0 else f"{self.file} row {self.row}"


@dataclass(frozen=True)
class Item:
    """One utterance: where it stands, its sound, its words, and what was answered, if anything."""

    key: str
    sound: Sound
    text: str
    speaker: str = ""
    answer: str = ""
    answer_sound: Sound | None = None


def read_corpus(folder: Path) -> tuple[str, list[Item | DataError]]:
    """Return the layout's name and all items; an item that cannot be used is its error.

    Raises:
        DataError: no folder, an empty one, or none of the layouts.
    """
    if not folder.is_dir():
        raise DataError(f"no corpus folder at {folder}; check the path")
    if not any(folder.iterdir()):
        raise DataError(f"{folder} is empty; expected {KNOWN}")
    table, lines = folder / "metadata.csv", folder / "metadata.jsonl"
    tsv = _common_voice(folder)
    if tsv is not None:
        name, items = "common voice", _table_items(_tsv_rows(tsv), tsv, folder / "clips")
    elif table.is_file() and (folder / "wavs").is_dir() and "|" in _first_line(table):
        name, items = "ljspeech", _ljspeech(table)
    elif table.is_file():
        name, items = "csv", _table_items(_csv_rows(table), table, folder)
    elif lines.is_file():
        name, items = "jsonl", _table_items(_json_rows(lines), lines, folder)
    elif files := sorted(folder.rglob("*.parquet")):
        name, items = "parquet", _parquet(files)
    else:
        raise DataError(f"{folder} has none of the known layouts; expected {KNOWN}")
    found = list(items)
    if not found:
        raise DataError(f"{folder} ({name}) lists no recordings")
    return name, found


def _common_voice(folder: Path) -> Path | None:
    if not (folder / "clips").is_dir():
        return None
    for name in ("validated.tsv", "train.tsv"):
        if (folder / name).is_file():
            return folder / name
    found = sorted(folder.glob("*.tsv"))
    return found[0] if len(found) == 1 else None


def _text_of(file: Path) -> str:
    return read_text(file, RECORDS_BYTES)


def _first_line(file: Path) -> str:
    return _text_of(file).partition("\n")[0]


def _csv_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    first = _first_line(file)
    divider = max(",;\t|", key=first.count)
    yield from _rows(file, divider, csv.QUOTE_MINIMAL)


def _tsv_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield from _rows(file, "\t", csv.QUOTE_NONE)


def _rows(file: Path, divider: str, quoting: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(
        _text_of(file).splitlines(keepends=True), delimiter=divider, quoting=quoting
    )
    try:
        for row in reader:
            yield f"{file} line {reader.line_num}", row
    except csv.Error as error:
        raise DataError(f"{file} line {reader.line_num} cannot be read ({error})") from None


def _json_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(_text_of(file).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except Unreadable as reason:
            raise DataError(f"{file} line {number} is not valid JSON ({reason})") from None
        if not isinstance(row, dict):
            raise DataError(f"{file} line {number} is no table but {type(row).__name__}")
        yield f"{file} line {number}", row


def _first(row: Mapping[str, Any], keys: Iterable[str]) -> str:
    for key in keys:
        value = row.get(key)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return ""


def _table_items(
    rows: Iterable[tuple[str, Mapping[str, Any]]], table: Path, root: Path
) -> Iterator[Item | DataError]:
    for number, (where, row) in enumerate(rows):
        if number == 0 and not any(key in row for key in AUDIO_KEYS):
            raise DataError(
                f"{table} has the columns {', '.join(map(str, row))}; one of "
                f"{', '.join(AUDIO_KEYS)} must name the recording and one of "
                f"{', '.join(TEXT_KEYS)} hold its words"
            )
        name, text = _first(row, AUDIO_KEYS), _first(row, TEXT_KEYS)
        if not name:
            yield DataError(f"{where} names no recording")
        elif not text:
            yield DataError(f"{where}: {name} has no transcript")
        else:
            answer = _first(row, ANSWER_AUDIO_KEYS)
            yield Item(
                f"{where.rpartition(' ')[2]}:{name}",
                Sound(root / name),
                text,
                _first(row, SPEAKER_KEYS),
                _first(row, ANSWER_KEYS),
                Sound(root / answer) if answer else None,
            )


def _ljspeech(table: Path) -> Iterator[Item | DataError]:
    for number, line in enumerate(_text_of(table).splitlines(), 1):
        if not line.strip():
            continue
        name, *texts = line.split("|")
        text = texts[-1].strip() if texts else ""
        if not name.strip() or not text:
            yield DataError(f"{table} line {number}: {name or 'a recording'} has no transcript")
            continue
        yield Item(f"{number}:{name}", Sound(table.parent / "wavs" / f"{name}.wav"), text)


def _parquet(files: list[Path]) -> Iterator[Item | DataError]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{files[0]}: reading parquet needs pyarrow; {install_command('train')}"
        ) from None
    parquet: Any = pyarrow.parquet  # has no type information
    for file in files:
        try:
            names = parquet.ParquetFile(file).schema_arrow.names
            sound = next((key for key in AUDIO_KEYS if key in names), "")
            answer = next((key for key in ANSWER_AUDIO_KEYS if key in names), "")
            texts = [n for n in names if n in (*TEXT_KEYS, *SPEAKER_KEYS, *ANSWER_KEYS)]
            rows = parquet.read_table(file, columns=texts).to_pylist()
        except pyarrow.ArrowException as error:
            raise DataError(f"{file} is no readable parquet file ({error})") from None
        if not sound or not texts:
            raise DataError(
                f"{file} has the columns {', '.join(names)}; one of {', '.join(AUDIO_KEYS)} must "
                f"hold the sound and one of {', '.join(TEXT_KEYS)} its words"
            )
        for number, row in enumerate(rows):
            text = _first(row, TEXT_KEYS)
            if not text:
                yield DataError(f"{file} row {number} has no transcript")
                continue
            yield Item(
                f"{file.name}:{number}",
                Sound(file, number, sound),
                text,
                _first(row, SPEAKER_KEYS),
                _first(row, ANSWER_KEYS),
                Sound(file, number, answer) if answer else None,
            )
