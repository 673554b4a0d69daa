"""Runtime of Text-to-Talk without torch: schedule, KV cache, streaming speech."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ttt_ref.offline import disable_telemetry

disable_telemetry()  # before anything can import onnxruntime

if TYPE_CHECKING:
    from ttt_runtime.bundle.folder import Bundle as Bundle
    from ttt_runtime.decode.engine import SpeechEngine as SpeechEngine
    from ttt_runtime.dialogue.assistant import Assistant as Assistant

_HOMES = {
    "Assistant": "ttt_runtime.dialogue.assistant",
    "Bundle": "ttt_runtime.bundle.folder",
    "SpeechEngine": "ttt_runtime.decode.engine",
}
__all__ = ["Assistant", "Bundle", "SpeechEngine"]


def __getattr__(name: str) -> Any:
    """Import the public classes when they are first asked for: `--help` needs no numpy."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
