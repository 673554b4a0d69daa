"""What the project states of its options: one JSON file, which tables and tests follow.

The file has a part for the shipped bundle and one for a fixed bundle of random weights, which does
not change when a better model ships.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ttt_ref.bounded import read_json, read_text
from ttt_ref.errors import ConfigError
from ttt_ref.outputs import write_whole
from ttt_runtime.bundle.folder import Bundle

BEGIN: Final = "<!-- fast options: begin (rewritten by ttt_runtime.profiler.agreement) -->"
END: Final = "<!-- fast options: end -->"
# Agreements that are stated and tested; gains in time belong to a machine.
STATED: Final = ("equal_answers", "equal_text", "equal_speech")


def fingerprint(bundle: Bundle) -> str:
    """Return the first 16 digits of the SHA-256 of the decoder's file, weights apart included."""
    files = bundle.config.files
    name = bundle.graph("decoder").file
    record = files.get(f"{name}.data") or files[name]
    return record.sha256[:16]


def read_state(path: Path) -> dict[str, Any]:
    """Read the file; an empty table if there is none.

    Raises:
        ConfigError: the file is something else.
    """
    if not path.exists():
        return {}
    state = read_json(path, error=ConfigError, advice="give another --state file", strict=False)
    if not isinstance(state, dict):
        raise ConfigError(f"{path} is no JSON table; give another --state file")
    return state


def rewrite_state(path: Path, document: Mapping[str, Any]) -> None:
    """Replace the part that this document measures: random prompts are the fixed bundle's."""
    state = read_state(path)
    state["fixed" if document["prompts"] == "random" else "shipped"] = dict(document)
    write_whole(path, (json.dumps(state, indent=1) + "\n").encode())


def check_targets(state: Path | None, tables: Sequence[Path]) -> None:
    """Refuse, before anything is measured, what could not be rewritten after it.

    Raises:
        ConfigError: the state is no JSON table, or a file has no table to rewrite.
        OSError: a file is missing, or its folder cannot be written.
    """
    if state is not None:
        read_state(state)
    for path in tables:
        _parts(path)
    for path in (*tables, *([] if state is None else [state])):
        folder = path.absolute().parent
        with os.scandir(folder):
            pass  # a folder, and there
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, "not writable", str(folder))


def rewrite_table(path: Path, table: str) -> None:
    """Replace the table between the two marks of a Markdown file.

    Raises:
        ConfigError: the marks are missing.
    """
    before, after = _parts(path)
    write_whole(path, f"{before}{BEGIN}\n{table}\n{END}{after}".encode())


def _parts(path: Path) -> tuple[str, str]:
    """Return what stands before and behind the marks."""
    text = read_text(path, error=ConfigError)
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"{path} has no lines {BEGIN} and {END} around a table; add both")
    return before, after
