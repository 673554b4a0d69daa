"""Resumable checkpoints of a run: written beside and renamed, verified before they are read.

`checkpoints/step-00001200/` holds what Accelerate saves (weights, optimizer, random states, one
set per process), `average-N.safetensors` where a moving average is kept, `model/` in the released
format, and `run.json`: step, elapsed time, place in the data, and the SHA-256 of every file.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttt_ref.errors import CheckpointError

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
    try:
        content = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        found = content["format"]
        if found != FORMAT:
            raise CheckpointError(
                f"{folder} has checkpoint format {found!r}, this program reads {FORMAT}; {advice}"
            )
        files: dict[str, dict[str, Any]] = content["files"]
        state = RunState(
            step=int(content["step"]),
            elapsed_s=float(content["elapsed_s"]),
            processes=int(content["processes"]),
            position=dict(content["position"]),
            config=dict(content["config"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / RUN_FILE} cannot be read ({type(error).__name__}); {advice}"
        ) from error
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"checkpoint {folder} has lost its file {name}; {advice}")
        if path.stat().st_size != expected["bytes"] or _digest(path) != expected["sha256"]:
            raise CheckpointError(
                f"{path} is damaged (its size or SHA-256 differs from {RUN_FILE}); {advice}"
            )
    return state
