"""What is written to a terminal, a pipe or a log: every character that it may carry, and no other.

A model's text and a file's name may hold control characters, which steer a terminal, and halves of
surrogate pairs, which no encoding can write. Standard library only.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

_closed: set[str] = set()


def printable(text: str) -> str:
    """Replace control characters: a model's text may not steer the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def escaped(text: str) -> str:
    r"""Return a message on one line; what cannot be shown is escaped (`\x1b`, `\n`, `\udcff`)."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode()
                   for c in text)  # fmt: skip


def unencodable(text: str) -> str:
    """Return the first half of a surrogate pair in a text, escaped; empty if it is good Unicode.

    Python keeps bytes that are no UTF-8 as such halves; no tokenizer takes them.
    """
    return next((escaped(c) for c in text if "\ud800" <= c <= "\udfff"), "")


def open_closed_streams() -> None:
    """Put nothing in place of streams that the shell closed (`>&-`), of which Python keeps None."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            _closed.add(name)
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (it lives as long as we do)


def stdout_is_closed() -> bool:
    """Return whether the shell gave this process no stdout, so that its output would be lost."""
    return sys.stdout is None or "stdout" in _closed


def accept_every_name() -> None:
    """Let stdout and stderr escape what their encoding cannot write, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # a stream that a test put in place
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def drop_unwritable_output() -> None:
    """Forget what still waits for a stdout that cannot be written.

    It would fail once more at the interpreter's end, with a message and an exit code of its own.
    """
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def print_json(record: Mapping[str, Any], stream: TextIO) -> None:
    """Write one JSON object on a line of its own, valid whatever the stream's encoding is."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    is_unicode = codecs.lookup(encoding).name.startswith("utf")
    text = json.dumps(record, ensure_ascii=not is_unicode)
    # Halves of surrogate pairs have an escape in JSON and no bytes in UTF-8.
    text = text.encode("utf-8", "backslashreplace").decode()
    print(text, file=stream, flush=True)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep what C libraries print to stderr off it: libmpg123 comments on every damaged frame.

    For command lines only: all threads share the stream.
    """
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except (OSError, AttributeError, ValueError):  # there is none
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
