"""How many CPUs this process may use: those it may run on, and what its control groups grant.

A container with a quota of one and a half CPUs sees all CPUs of its machine; a thread for each of
them would use the quota up within a part of every period and stand still for the rest. Groups
lie within groups, and the tightest counts. Both numbers may change while the process runs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from time import monotonic
from typing import Final

ROOT: Final = Path("/")
_UNLIMITED: Final = ("max", "-1")


def allowed_cpus() -> int:
    """Return the number of CPUs that the system may run this process on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_cpus(root: Path = ROOT) -> int:
    """Return how many threads make sense: the CPUs allowed, or the quota rounded up if less.

    Args:
        root: of the file system (tests).
    """
    quota = cpu_quota(root)
    cpus = allowed_cpus()
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def cpu_quota(root: Path = ROOT) -> float | None:
    """Return the CPU time a second that the control groups grant, in CPUs; None without a limit.

    Both versions of control groups are read, with all groups around this process's own.
    """
    shares = [share for folder in _group_folders(root) if (share := _share(folder)) is not None]
    return min(shares, default=None)


class CpuWatch:
    """`usable_cpus`, read again now and then, by one thread at a time."""

    def __init__(self, root: Path = ROOT, every_s: float = 2.0) -> None:
        self._root = root
        self._every_s = every_s
        self._due_s = 0.0

    def is_due(self) -> bool:
        """Tell whether it is time to read again."""
        return monotonic() >= self._due_s

    def usable(self) -> int:
        """Read."""
        self._due_s = monotonic() + self._every_s
        return usable_cpus(self._root)


@dataclass(frozen=True)
class _Mount:
    """One mounted hierarchy: which of its folders is mounted, where, and what it controls."""

    root: PurePosixPath
    point: Path
    version: int
    controllers: tuple[str, ...]


def _group_folders(root: Path) -> Iterator[Path]:
    """Yield this process's groups that can limit CPUs, each followed by those around it."""
    mounts = list(_mounts(root))
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        version = 2 if number == "0" and not controllers else 1
        for mount in mounts:
            if mount.version != version:
                continue
            if version == 1 and not (
                "cpu" in controllers.split(",") and "cpu" in mount.controllers
            ):
                continue
            group = PurePosixPath(path)
            inside = group.relative_to(mount.root) if group.is_relative_to(mount.root) else None
            folder = mount.point if inside is None else mount.point / inside
            yield folder
            while folder != mount.point and mount.point in folder.parents:
                folder = folder.parent
                yield folder


def _mounts(root: Path) -> Iterator[_Mount]:
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) < 5 or len(kinds) < 1 or kinds[0] not in ("cgroup", "cgroup2"):
            continue
        options = tuple(kinds[2].split(",")) if len(kinds) > 2 else ()
        version = 2 if kinds[0] == "cgroup2" else 1
        yield _Mount(PurePosixPath(fields[3]), root / fields[4].lstrip("/"), version, options)


def _share(folder: Path) -> float | None:
    """Return quota over period of one group."""
    words = _read(folder / "cpu.max").split()
    if not words:
        words = [_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    try:
        quota, period = words
        return None if quota in _UNLIMITED else int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # no such files here, or none that we understand
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
