"""Resumable checkpoints of a run: written beside and renamed, verified before they are read.

`checkpoints/step-00001200/` holds what Accelerate saves (weights, optimizer, random states, one
set per process), `average-N.safetensors` where a moving average is kept, `model/` in the released
format, and `run.json`: step, elapsed time, place in the data, and the SHA-256 of every file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from safetensors import SafetensorError

from ttt_ref.bounded import MIB, read_json, shown
from ttt_ref.errors import CheckpointError, ConfigError
from ttt_ref.ranges import Bytes, Steps
from ttt_ref.schema import Length, Range, build

FORMAT = 1
RUN_FILE = "run.json"
_NAME = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class RunState:
    """The plain numbers of a run; all else stands in Accelerate's files."""

    step: int
    elapsed_s: float
    processes: int
    position: dict[str, Any]
    config: dict[str, Any]


@dataclass(frozen=True)
class _File:
    sha256: Annotated[str, Length(64, 64)]
    bytes: Bytes


@dataclass(frozen=True)
class _Position:
    pool: Steps
    cursors: Annotated[tuple[Steps, ...], Length(1, 10_000)]
    batch: Steps
    micro_step: Steps


@dataclass(frozen=True)
class _Stored:
    """What `run.json` holds."""

    format: int
    step: Steps
    elapsed_s: Annotated[float, Range(0, 1e10)]
    processes: Annotated[int, Range(1, 1 << 20)]
    position: _Position
    config: Mapping[str, Any]
    files: Mapping[str, _File]


def folder_name(step: int) -> str:
    """Name of the checkpoint of a step."""
    return f"step-{step:08d}"


def list_checkpoints(root: Path) -> list[Path]:
    """Complete checkpoints, oldest first. Temporary folders of a crash are not among them."""
    if not root.is_dir():
        return []
    return sorted(p for p in root.iterdir() if p.is_dir() and _NAME.fullmatch(p.name))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def named_after(final: Path) -> Iterator[None]:
    """Turn what torch and safetensors raise for a full disk into one error with the target's name.

    Errors: CheckpointError.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
        raise CheckpointError(
            f"the checkpoint {final} cannot be written ({why}); free some space, then continue "
            "with --resume from the checkpoint before it"
        ) from error


def remove_unfinished(root: Path) -> None:
    """Remove the folders of checkpoints that a killed run did not finish."""
    for folder in root.glob(".step-*.tmp"):
        shutil.rmtree(folder, ignore_errors=True)


def seal(folder: Path, final: Path, state: RunState, keep: int) -> None:
    """Write `run.json` over the finished files, rename to the final name, drop old checkpoints."""
    files = {
        str(path.relative_to(folder)): {"sha256": _digest(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    content = {
        "format": FORMAT,
        "step": state.step,
        "elapsed_s": state.elapsed_s,
        "processes": state.processes,
        "position": state.position,
        "config": state.config,
        "files": files,
    }
    (folder / RUN_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if final.exists():
        shutil.rmtree(final)
    folder.rename(final)
    for old in list_checkpoints(final.parent)[:-keep]:
        shutil.rmtree(old)


def read_run(folder: Path) -> RunState:
    """Verify every file of a checkpoint and return its numbers.

    Errors: CheckpointError if a file is missing, cut short, altered or of another format.
    """
    advice = f"delete {folder} to resume from the checkpoint before it"
    path = folder / RUN_FILE
    try:
        content = read_json(path, 64 * MIB, CheckpointError, most_values=2_000_000, advice=advice)
        found = content.get("format") if isinstance(content, dict) else None
        if found != FORMAT:
            raise CheckpointError(
                f"{folder} has checkpoint format {shown(found)}, this program reads {FORMAT}; "
                f"{advice}"
            )
        stored = build(_Stored, content, str(path))
    except (OSError, ConfigError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); {advice}") from error
    if folder_name(stored.step) != folder.name or not stored.files:
        raise CheckpointError(
            f"{path} is of step {stored.step} with {len(stored.files)} files, its folder is called "
            f"{folder.name}; {advice}"
        )
    position = stored.position
    state = RunState(
        stored.step,
        stored.elapsed_s,
        stored.processes,
        {**asdict(position), "cursors": list(position.cursors)},
        dict(stored.config),
    )
    for name, expected in stored.files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"checkpoint {folder} has lost its file {name}; {advice}")
        if path.stat().st_size != expected.bytes or _digest(path) != expected.sha256:
            raise CheckpointError(
                f"{path} is damaged (its size or SHA-256 differs from {RUN_FILE}); {advice}"
            )
    return state
