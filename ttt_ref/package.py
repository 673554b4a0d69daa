"""What the installed distribution says of itself: its version, and how its extras are installed.

Standard library only: every package and every command of the project may import it.
"""

from __future__ import annotations

import json
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Any, Final

DISTRIBUTION: Final = "ttt-edge"


def version_line() -> str:
    """Return the line that `--version` prints."""
    found = _distribution()
    if found is None:
        return f"{DISTRIBUTION}, not installed (run from its sources)"
    return f"{DISTRIBUTION} {found.version}"


def installed_version() -> str:
    """Return the version alone; "0" where the project runs from its sources."""
    found = _distribution()
    return "0" if found is None else found.version


def print_version(chosen: bool) -> None:
    """Print the version and leave, if it was chosen: the callback of an option `--version`."""
    if chosen:
        print(version_line())
        raise SystemExit(0)


def install_command(*extras: str) -> str:
    """Return the command that installs these extras the way the project itself was installed.

    From a clone that is `pip install '.[mic]'`, to be run in the clone: no index has the project
    under its name. If a wheel file was installed the command names the file.
    """
    return f"pip install '{_source(_distribution())}[{','.join(extras)}]'"


def _distribution() -> Distribution | None:
    try:
        return distribution(DISTRIBUTION)
    except PackageNotFoundError:
        return None


def _source(found: Distribution | None) -> str:
    """Return what pip was given (PEP 610): the clone's folder, a wheel file, or a name."""
    origin = _origin(found)
    if found is None or "dir_info" in origin:
        return "."
    if "archive_info" in origin:
        return str(origin.get("url", DISTRIBUTION)).removeprefix("file://")
    return DISTRIBUTION


def _origin(found: Distribution | None) -> dict[str, Any]:
    text = None if found is None else found.read_text("direct_url.json")
    try:
        origin = json.loads(text or "{}")
    except json.JSONDecodeError:
        return {}
    return origin if isinstance(origin, dict) else {}
