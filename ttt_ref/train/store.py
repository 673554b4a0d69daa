"""Tokenized examples in flat memory-mapped arrays, built once per data file and tokenizer.

A store is a folder: `ids.npy` int32 [N], `trained.npy` bool [N] (the labels are the ids where
true and ignored elsewhere), `offsets.npy` int64 [E + 1], `prompt_lengths.npy` and
`first_trained.npy` int32 [E], with `store.json` telling what it was made from. N counts tokens,
E examples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ttt_ref.bounded import TOKENIZER_BYTES, read_bytes, read_json
from ttt_ref.errors import ConfigError
from ttt_ref.outputs import Staged
from ttt_ref.tokenizer_files import TOKENIZER_FILES

FORMAT = 2

IntArray = NDArray[np.int32]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Example:
    """One conversation or text: ids, which of them are trained, and the released prompt length."""

    ids: IntArray
    trained: BoolArray
    prompt_length: int


@dataclass(frozen=True)
class Store:
    """Read-only view of one tokenized file.

    `first_trained` is the position of each example's first trained token, -1 where none is;
    `passed_over` counts the records that were left out because they cannot be used.
    """

    name: str
    ids: IntArray
    trained: BoolArray
    offsets: NDArray[np.int64]
    prompt_lengths: IntArray
    first_trained: IntArray
    passed_over: int = 0

    def __len__(self) -> int:
        return len(self.prompt_lengths)

    def __getitem__(self, index: int) -> Example:
        low, high = int(self.offsets[index]), int(self.offsets[index + 1])
        return Example(self.ids[low:high], self.trained[low:high], int(self.prompt_lengths[index]))


def fingerprint(data_file: Path, tokenizer_dir: Path, variant: str = "") -> str:
    """Name of the store: changes with the data file, this format, and all that decides ids.

    Args:
        data_file: the file of records.
        tokenizer_dir: every tokenizer file in it counts: which of them are read depends on which
            are there.
        variant: how records are read, where there is a choice.
    """
    digest = hashlib.sha256()
    digest.update(f"{FORMAT} {variant} {data_file.resolve()}".encode())
    status = data_file.stat()
    digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    for name in TOKENIZER_FILES:
        if (tokenizer_dir / name).is_file():
            content = read_bytes(tokenizer_dir / name, TOKENIZER_BYTES)
            digest.update(f"{name} {len(content)} ".encode() + content)
    return f"{data_file.stem[:40]}-{digest.hexdigest()[:16]}"


def open_store(folder: Path, name: str) -> Store:
    """Map a finished store."""
    return Store(
        name=name,
        ids=np.load(folder / "ids.npy", mmap_mode="r"),
        trained=np.load(folder / "trained.npy", mmap_mode="r"),
        offsets=np.load(folder / "offsets.npy"),
        prompt_lengths=np.load(folder / "prompt_lengths.npy"),
        first_trained=np.load(folder / "first_trained.npy"),
        passed_over=int(read_json(folder / "store.json")["passed_over"]),
    )


def build_store(
    data_file: Path,
    tokenizer_dir: Path,
    cache_dir: Path,
    read: Callable[[Path], Iterable[Example]],
    passed_over: Sequence[str] | None = None,
) -> Path:
    """Tokenize `data_file` into `cache_dir` unless that has been done; return the folder.

    Staged (see `ttt_ref.outputs`), so an interrupted build leaves no store behind. Errors:
    ConfigError for a file without examples, and whatever `read` raises.

    Args:
        data_file: the file of records.
        tokenizer_dir: see `fingerprint`.
        cache_dir: where stores are kept.
        read: makes the examples.
        passed_over: where `read` notes records that it leaves out; None if it leaves out none.
    """
    variant = "" if passed_over is None else "skip-bad"
    folder = cache_dir / fingerprint(data_file, tokenizer_dir, variant)
    if (folder / "store.json").exists():
        return folder
    ids: list[IntArray] = []
    trained: list[BoolArray] = []
    prompt_lengths: list[int] = []
    for example in read(data_file):
        ids.append(example.ids)
        trained.append(example.trained)
        prompt_lengths.append(example.prompt_length)
    if not ids:
        left_out = f" ({len(passed_over)} cannot be used: {passed_over[0]})" if passed_over else ""
        raise ConfigError(
            f"{data_file} holds no examples{left_out}; expected `messages` or `text` records"
        )
    firsts = [int(row.argmax()) if row.any() else -1 for row in trained]
    offsets = np.zeros(len(ids) + 1, np.int64)
    np.cumsum([len(row) for row in ids], out=offsets[1:])
    folder.parent.mkdir(parents=True, exist_ok=True)
    made_from = {
        "format": FORMAT,
        "file": str(data_file),
        "examples": len(prompt_lengths),
        "passed_over": len(passed_over or ()),
    }
    with Staged(folder, folder=True) as output:
        np.save(output.path / "ids.npy", np.concatenate(ids))
        np.save(output.path / "trained.npy", np.concatenate(trained))
        np.save(output.path / "offsets.npy", offsets)
        np.save(output.path / "prompt_lengths.npy", np.asarray(prompt_lengths, np.int32))
        np.save(output.path / "first_trained.npy", np.asarray(firsts, np.int32))
        text = json.dumps(made_from) + "\n"
        (output.path / "store.json").write_text(text, encoding="utf-8")
        if not (folder / "store.json").exists():  # else another process was faster
            output.commit()
    return folder
