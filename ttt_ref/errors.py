"""Errors that a user can cause, and the one place that turns them into a clean exit.

Every message is one line: what was seen, what was expected, what to do. Command lines run their
body inside :func:`exit_on_error`, so that no user ever reads a traceback for a mistake of theirs.
This module needs the standard library only: the runtime without torch depends on it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator

from ttt_ref.streams import escaped

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
# Environment variable; anything but 0 prints the traceback of an error too (`--debug`).
DEBUG = "TTT_DEBUG"
# Longest message on a terminal; of a longer one the rest goes into a file.
_LINE_CHARACTERS = 1000


class TttError(Exception):
    """Base of all errors caused by input, environment or options."""


class ConfigError(TttError, ValueError):
    """A configuration value, key or combination that cannot be used."""


class DataError(TttError, ValueError):
    """A training record or data file that cannot be used."""


class CheckpointError(TttError):
    """A checkpoint folder that is missing, damaged or of another architecture."""


class BundleError(TttError):
    """A bundle that is missing, damaged, newer than this program or hostile."""


class AudioError(TttError):
    """Audio that cannot be read, is empty, or lies outside the stated limits."""


class CodecError(TttError):
    """Speech tokens or codec files that cannot be used."""


class DeviceError(TttError):
    """A device, provider or engine that was asked for and is not there."""


class ExportError(TttError):
    """An export that failed its checks or could not be written."""


def _os_error_line(error: OSError) -> str:
    full = error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
    # Of two names (a copy), the first is the source; what is full is where the second lies.
    name = error.filename2 if full and error.filename2 else error.filename
    where = f": {name}" if name else ""
    if error.errno == errno.ENOSPC:
        return f"no space left on the device{where}; free some space or choose another folder"
    if isinstance(error, FileNotFoundError):
        return f"no such file or folder{where}; check the path"
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return f"permission denied{where}; choose a path that you may read and write"
    if isinstance(error, IsADirectoryError):
        return f"a file was expected, a folder was given{where}"
    return f"{error.strerror or error}{where}"


def line_of(error: BaseException) -> str:
    """Return the one line that a user reads of an error, with nothing that steers a terminal."""
    if isinstance(error, TttError):
        return escaped(" ".join(str(error).split()))
    if isinstance(error, OSError):
        return escaped(_os_error_line(error))
    if isinstance(error, MemoryError):
        return "out of memory; close other programs, or take a smaller model or input"
    return escaped(" ".join(f"{type(error).__name__}: {error}".split()))


def report(line: str) -> None:
    """Print an error's line on stderr; of one that is too long the rest goes into a file."""
    if len(line) > _LINE_CHARACTERS:
        with contextlib.suppress(OSError):
            descriptor, name = tempfile.mkstemp(prefix="ttt-edge-", suffix=".txt")
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(f"{line}\n")
            line = f"{line[:_LINE_CHARACTERS]} ... (all of it: {name})"
    print(f"error: {line}", file=sys.stderr)


@contextlib.contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn user errors inside the block into one line on stderr and a process exit code.

    Exit code 2 for :class:`TttError`, operating-system errors and exhausted memory, 130 for Ctrl-C.
    Anything else is a defect of ours and goes on (see `ttt_ref.launch`).
    """
    try:
        yield
    except BrokenPipeError:
        # The reader of our stdout went away (for example `| head`): nothing is left to say.
        sys.stderr.close()
        raise SystemExit(0) from None
    except (TttError, OSError, MemoryError) as error:
        if os.environ.get(DEBUG, "0") not in ("", "0"):
            traceback.print_exception(error)
        report(line_of(error))
        raise SystemExit(EXIT_USER_ERROR) from None
    except KeyboardInterrupt:
        print("interrupted; nothing half-written was left behind", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None
