"""Keep a loaded model's resident memory near the size of its weights (Linux; elsewhere nothing).

onnxruntime maps a graph's weights from their file and repacks them. What then stays resident and
is of no use are file pages that were read for the last time, and freed pieces of the heap too
small to have gone back to the system one by one.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

_M_TRIM_THRESHOLD: Final = -1  # glibc's malloc.h
_M_MMAP_THRESHOLD: Final = -3
_LOADING_BYTES: Final = 64 * 1024
_RUNNING_BYTES: Final = 32 * 2**20  # the largest that glibc would come to by itself
_MADV_DONTNEED: Final = 4
_HEADER: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ *(.*)")


def _libc() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None, use_errno=True)
    except OSError:
        return None


@contextmanager
def whole_pieces() -> Iterator[None]:
    """Let memory asked for meanwhile go back to the system as soon as it is freed."""
    libc = _libc()
    if not hasattr(libc, "mallopt"):  # glibc only
        yield
        return
    libc.mallopt(_M_MMAP_THRESHOLD, _LOADING_BYTES)
    try:
        yield
    finally:
        # Both as glibc would come to by itself: a step's arrays must not go back and be faulted in
        # again. It stops adapting as soon as one is set.
        libc.mallopt(_M_MMAP_THRESHOLD, _RUNNING_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * _RUNNING_BYTES)
        libc.malloc_trim(0)


def forget_pages(files: Collection[Path]) -> int:
    """Drop this process's clean pages of mapped files; whoever reads one gets it back.

    Args:
        files: absolute paths; mappings in which anything was written are left alone.

    Returns:
        Bytes that were resident.
    """
    madvise = getattr(_libc(), "madvise", None)
    if madvise is None:
        return 0
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    names = {str(file) for file in files}
    forgotten = 0
    for start, stop, resident in _clean_mappings(names):
        if madvise(start, stop - start, _MADV_DONTNEED) == 0:
            forgotten += resident
    return forgotten


def _clean_mappings(names: set[str]) -> list[tuple[int, int, int]]:
    """Return (start, stop, resident bytes) of these files' mappings without written pages."""
    found: list[tuple[int, int, int]] = []
    place: tuple[int, int] | None = None
    resident = 0
    try:
        lines = Path("/proc/self/smaps").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is not None:
            ours = header[3] in names
            place = (int(header[1], 16), int(header[2], 16)) if ours else None
        elif place is not None and line.startswith("Rss:"):
            resident = int(line.split()[1]) * 1024
        elif place is not None and line.startswith("Anonymous:") and line.split()[1] == "0":
            found.append((*place, resident))
    return found
