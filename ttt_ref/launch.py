"""The one door of every command line: import, parse, run; errors become one line and a code.

Exit codes: 0; 1 where a part of a batch failed; 2 for errors of the user; 70 for a defect of ours;
130 for Ctrl-C; 143 for TERM.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from ttt_ref.errors import DEBUG, exit_on_error, report
from ttt_ref.streams import (
    accept_every_name,
    drop_unwritable_output,
    escaped,
    open_closed_streams,
)

EXIT_DEFECT = 70  # EX_SOFTWARE of sysexits.h
EXIT_TERMINATED = 143


def launch(module: str) -> NoReturn:
    """Import a command's module and run its `main`.

    What the console scripts call. Importing takes a while, so that Ctrl-C, TERM and missing
    libraries must have their one line already then.
    """
    with guarded():
        importlib.import_module(module).main()
    raise SystemExit(0)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Run a whole program inside: nothing leaves it but a line on stderr and an exit code."""
    _prepare()
    try:
        with exit_on_error():
            yield
    except Exception as error:
        _leave_with_defect(error)
    finally:
        drop_unwritable_output()


def _prepare() -> None:
    signal.signal(signal.SIGTERM, _terminate)
    open_closed_streams()
    accept_every_name()


def _terminate(signum: int, frame: FrameType | None) -> None:
    # Unwinds the stack, so that half-written files are removed as with Ctrl-C.
    raise SystemExit(EXIT_TERMINATED)


def _leave_with_defect(error: Exception) -> NoReturn:
    """Name the file that holds the traceback: a terminal full of our code helps nobody."""
    if os.environ.get(DEBUG, "0") in ("", "0"):
        details = "".join(traceback.format_exception(error))
        try:
            descriptor, name = tempfile.mkstemp(prefix="ttt-edge-error-", suffix=".txt")
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{' '.join(map(escaped, sys.argv))}\n{details}")
            where = f"the details are in {name}"
        except OSError:
            where = "run it again with --debug for the details"
    else:
        traceback.print_exception(error)
        where = "the traceback stands above"
    line = escaped(" ".join(str(error).split()))[:300]
    report(f"a defect of this program ({type(error).__name__}: {line}); {where}; please report it")
    raise SystemExit(EXIT_DEFECT)
