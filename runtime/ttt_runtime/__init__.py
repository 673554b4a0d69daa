"""Runtime of Text-to-Talk without torch: schedule, KV cache, streaming speech."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttt_runtime.assistant import Assistant as Assistant
    from ttt_runtime.bundle import Bundle as Bundle
    from ttt_runtime.engine import SpeechEngine as SpeechEngine

_HOMES = {
    "Assistant": "ttt_runtime.assistant",
    "Bundle": "ttt_runtime.bundle",
    "SpeechEngine": "ttt_runtime.engine",
}
__all__ = ["Assistant", "Bundle", "SpeechEngine"]


def __getattr__(name: str) -> Any:
    """Import the public classes when they are first asked for: `--help` needs no numpy."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
