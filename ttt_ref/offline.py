"""Nothing calls home: the switches of every dependency that would, in one place.

Each has to stand before its library is imported: onnxruntime starts its collector while it loads,
and its `disable_telemetry_events()` comes too late for the files that it writes. So every package
of the project calls :func:`disable_telemetry` when it is imported, and child processes inherit the
environment. docs/offline.md tells what would be sent. Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

SWITCHES: Final[Mapping[str, str]] = {
    # onnxruntime >= 1.29 on Linux: a device id and an event cache below ~/.cache/Microsoft, and
    # events about every session to a collector of Microsoft's.
    "ORT_DISABLE_TELEMETRY": "1",
    # huggingface_hub, and through it transformers, accelerate and optimum: names and versions of
    # the libraries in the header of every request.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # The general switch, which huggingface_hub and many command lines respect.
    "DO_NOT_TRACK": "1",
}


def disable_telemetry() -> None:
    """Set every switch, whatever the environment says: offline is no option here."""
    os.environ.update(SWITCHES)
