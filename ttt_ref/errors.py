"""Errors that a user can cause, and the one place that turns them into a clean exit.

Every message is one line: what was seen, what was expected, what to do. Command lines run their
body inside :func:`exit_on_error`, so that no user ever reads a traceback for a mistake of theirs.
This module imports the standard library only: the runtime without torch depends on it.
"""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Iterator

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


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


@contextlib.contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn user errors inside the block into one line on stderr and a process exit code.

    Exit code 2 for :class:`TttError` and operating-system errors, 130 for Ctrl-C. Anything else
    is a defect of ours and keeps its traceback.
    """
    try:
        yield
    except TttError as error:
        line = " ".join(str(error).split())
    except BrokenPipeError:
        # The reader of our stdout went away (for example `| head`): nothing is left to say.
        sys.stderr.close()
        raise SystemExit(0) from None
    except OSError as error:
        line = _os_error_line(error)
    except KeyboardInterrupt:
        print("interrupted; nothing half-written was left behind", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None
    else:
        return
    print(f"error: {line}", file=sys.stderr)
    raise SystemExit(EXIT_USER_ERROR)
