"""Outputs appear whole or not at all, and never over something that is read.

Whatever a program writes under a name of the user's is staged in a hidden sibling and renamed when
it is whole. While its process lives the sibling is locked; what a killed process left behind is
therefore known by its free lock, and the next run that writes the same name removes it.

This module imports the standard library only: the runtime without torch depends on it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

from ttt_ref.errors import ConfigError

try:
    import fcntl
except ImportError:  # no POSIX locks: nothing is ever taken for left behind
    fcntl = None  # type: ignore[assignment]

_STAGED = "part"
_REPLACED = "old"
# What a write says without a name: a full disk, a file limit, a quota, a broken device.
_UNWRITTEN = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)
# Longest name of most file systems is 255 bytes; the token and the endings need 16.
_NAME_BYTES = 200


def refuse_inputs(outputs: Iterable[str | os.PathLike[str]], inputs: Iterable[Path]) -> None:
    """Refuse to write over a file that is read, by whatever path or link it is named.

    Raises:
        ConfigError: an output is an input.
    """
    sources = [source for source in inputs if source.exists()]
    for target in map(Path, outputs):
        if not target.exists():
            continue
        for source in sources:
            if target.samefile(source):
                raise ConfigError(
                    f"the output {target} is the input {source}; give another name or folder"
                )


class Staged:
    """A hidden sibling of an output that takes its name on `commit`.

        with Staged("report.json") as staged:
            staged.path.write_text(text)
            staged.commit()

    Leaving the block without `commit`, for whatever reason, removes it. A link is followed: the
    file that it names is replaced, the link stays.

    Args:
        target: the output's name. Its folder must exist.
        folder: stage a folder rather than a file.

    Raises:
        OSError: the place cannot be written to; it names the target, never the hidden sibling.
    """

    def __init__(self, target: str | os.PathLike[str], *, folder: bool = False) -> None:
        self.target = Path(os.path.realpath(target))
        self._shown = str(target)
        self._lock: int | None = None
        self.committed = False
        remove_leftovers(self.target)
        token = secrets.token_hex(4)
        # Nobody may find it unlocked, so it gets its name when it is locked.
        young = self.target.with_name(f".{_stem(self.target)}.{token}.new")
        self.path = self.target.with_name(f".{_stem(self.target)}.{token}.{_STAGED}")
        with self.named():
            if folder:
                young.mkdir()
            else:
                os.close(os.open(young, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            try:
                self._lock = _locked(young)
                young.rename(self.path)
            except BaseException:
                _remove(young)
                raise

    def __enter__(self) -> Staged:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.discard()
        if isinstance(error, OSError):
            self._name(error)

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Let errors of the operating system name the target: the user knows no other name."""
        try:
            yield
        except OSError as error:
            self._name(error)
            raise

    def _name(self, error: OSError) -> None:
        own = str(self.path)
        of_data = error.filename is None and error.errno in _UNWRITTEN
        if of_data or str(error.filename).startswith(own[: -len(_STAGED)]):
            error.filename, error.filename2 = self._shown, None

    def commit(self) -> Path:
        """Rename to the target, replacing what was there; return the target."""
        with self.named():
            replace(self.path, self.target)
        self.committed = True
        self._unlock()
        return self.target

    def discard(self) -> None:
        """Remove what was staged, unless it was committed."""
        if not self.committed:
            _remove(self.path)
            self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def replace(source: Path, target: Path) -> None:
    """Give `source`, a file or folder beside it, the name `target`, whatever had that name before.

    A folder that is not empty cannot be replaced in one step. What was there keeps a name by which
    `remove_leftovers` puts it back if the process dies between the two.
    """
    if not source.is_dir() or not target.exists():
        os.replace(source, target)
        return
    old = target.with_name(f".{_stem(target)}.{secrets.token_hex(4)}.{_REPLACED}")
    target.rename(old)
    try:
        source.rename(target)
    except OSError:
        old.rename(target)
        raise
    _remove(old)


@contextlib.contextmanager
def staged(target: str | os.PathLike[str], *, folder: bool = False) -> Iterator[Path]:
    """Give a hidden sibling of `target` to write; it takes that name when the block succeeds."""
    with Staged(target, folder=folder) as output:
        yield output.path
        output.commit()


def write_whole(target: str | os.PathLike[str], data: bytes | str) -> None:
    """Write a file (text as UTF-8) so that nobody ever reads half of it."""
    with staged(target) as path:
        path.write_bytes(data.encode() if isinstance(data, str) else data)


def remove_leftovers(target: Path) -> None:
    """Remove what killed processes staged for this output; put back what one had set aside.

    Nothing that a living process holds is touched. A folder that cannot be read has no leftovers.
    """
    own = re.compile(rf"\.{re.escape(_stem(target))}\.[0-9a-f]{{8}}\.({_STAGED}|{_REPLACED})")
    try:
        found = sorted(name for name in os.listdir(target.parent) if own.fullmatch(name))
    except OSError:
        return
    # First what was set aside, so that it is back before anything else is removed.
    for name in sorted(found, key=lambda name: name.endswith(_STAGED)):
        path = target.with_name(name)
        with contextlib.suppress(OSError):
            lock = _locked(path)
            if lock is None:
                continue
            try:
                if name.endswith(_REPLACED) and not target.exists():
                    path.rename(target)
                else:
                    _remove(path)
            finally:
                os.close(lock)


def _stem(target: Path) -> str:
    name = target.name
    while len(os.fsencode(name)) > _NAME_BYTES:
        name = name[:-1]
    return name


def _locked(path: Path) -> int | None:
    """Return a descriptor that locks a file or folder; None where it is held or cannot be."""
    if fcntl is None:
        return None
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process holds it, or this file system knows no locks
        os.close(descriptor)
        return None
    return descriptor


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
