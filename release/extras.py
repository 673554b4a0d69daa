"""How much the extras of the runtime add to an installation with `cpu`, in MB on disk.

    python -m release.extras [--limit 15] [live server ...]

Makes an empty environment, installs the base's requirements, then each extra's beside them. Exit
code 1 if one adds more than the limit.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
EXTRAS: Final = ("live", "server")


def requirements(extra: str | None) -> list[str]:
    """Return what an extra asks for; None: the base with its engine for CPUs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known: dict[str, list[str]] = project["optional-dependencies"]
    if extra is not None:
        return list(known[extra])
    return [*project["dependencies"], *known["cpu"]]


def size_mb(folder: Path) -> float:
    """Return the size of all files below a folder, without what Python compiles of them."""
    files = (file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return sum(file.stat().st_size for file in files if file.suffix != ".pyc") / 1e6


def added_mb(extras: list[str]) -> dict[str, float]:
    """Return what each extra adds for itself."""
    found = {}
    for extra in extras:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            venv.create(folder, with_pip=True)
            pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
            subprocess.run([*pip, *requirements(None)], check=True)
            before = size_mb(folder)
            subprocess.run([*pip, *requirements(extra)], check=True)
            found[extra] = size_mb(folder) - before
    return found


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extras", nargs="*", default=list(EXTRAS))
    parser.add_argument("--limit", type=float, default=15.0, help="MB")
    options = parser.parse_args()
    found = added_mb(options.extras)
    for extra, megabytes in found.items():
        print(f"{extra:<10}{megabytes:6.1f} MB")
    if any(megabytes > options.limit for megabytes in found.values()):
        sys.exit(f"more than {options.limit:g} MB")


if __name__ == "__main__":
    main()
