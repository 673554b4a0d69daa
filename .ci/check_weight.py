"""Refuse commits that make every later clone too heavy: ``python .ci/check_weight.py [A..B]``.

Git keeps each version of a binary for ever. Counted are the files, in every version, that the
commits of the range bring and that were not there before: at most 40 MB together, and of a path at
most one version above 1 MB. Without a range: what HEAD has beyond `origin/main`, or, where that is
not known or is HEAD, its last commit. Exit code 1: too heavy; 2: the range cannot be read.
"""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Final

LIMIT_BYTES: Final = 40_000_000
BINARY_BYTES: Final = 1_000_000


def git(folder: Path, *words: str, stdin: str | None = None) -> str:
    """Return what git prints; SystemExit 2 with its last line if it fails."""
    done = subprocess.run(
        ["git", *words], cwd=folder, input=stdin, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["git failed"])[-1]
        print(f"error: git {words[0]}: {reason}", file=sys.stderr)
        raise SystemExit(2)
    return done.stdout


def resolve(folder: Path, name: str) -> str | None:
    """Return the id of a commit; None if this clone does not have it."""
    done = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or None


def default_range(folder: Path) -> str | None:
    """Return the range to look at; None in a clone of one commit."""
    head, main = resolve(folder, "HEAD"), resolve(folder, "origin/main")
    if main is not None and main != head:
        return "origin/main..HEAD"
    return "HEAD^..HEAD" if resolve(folder, "HEAD^") is not None else None


def added(folder: Path, commits: str) -> dict[str, list[int]]:
    """Return path -> bytes of each version that the commits bring."""
    objects = git(folder, "rev-list", "--objects", commits, "--")
    form = "%(objecttype) %(objectsize) %(rest)"
    found: dict[str, list[int]] = defaultdict(list)
    for line in git(folder, "cat-file", f"--batch-check={form}", stdin=objects).splitlines():
        kind, size, path = line.split(" ", 2)
        if kind == "blob":
            found[path].append(int(size))
    return dict(found)


def problems(files: dict[str, list[int]]) -> list[str]:
    """Return a line for each rule that is broken."""
    lines = []
    total = sum(map(sum, files.values()))
    if total > LIMIT_BYTES:
        heaviest = sorted(files, key=lambda path: -sum(files[path]))[:5]
        named = ", ".join(f"{path} {sum(files[path]) / 1e6:.1f} MB" for path in heaviest)
        lines.append(
            f"the commits add {total / 1e6:.1f} MB, at most {LIMIT_BYTES / 1e6:.0f} MB are "
            f"accepted ({named}); keep weights out of git until they are final"
        )
    for path, sizes in sorted(files.items()):
        if sum(size > BINARY_BYTES for size in sizes) > 1:
            lines.append(
                f"{path} has {len(sizes)} versions above 1 MB; squash the commits, so that only "
                "the final one is kept"
            )
    return lines


def main(folder: Path, commits: str | None) -> int:
    """Check a range and return the exit code."""
    commits = commits or default_range(folder)
    if commits is None:
        print("one commit, nothing to compare it with")
        return 0
    files = added(folder, commits)
    found = problems(files)
    for line in found:
        print(f"error: {commits}: {line}", file=sys.stderr)
    if not found:
        print(f"{commits}: {sum(map(sum, files.values())) / 1e6:.1f} MB added")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(Path.cwd(), sys.argv[1] if len(sys.argv) > 1 else None))
