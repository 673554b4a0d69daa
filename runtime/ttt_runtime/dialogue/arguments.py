"""What a program hands to an assistant, checked when it calls and not when it takes the first part.

A turn is a generator: without this, a wrong seed would be told after the recording was encoded.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ttt_ref.arguments import seed_of, shown, token_ids
from ttt_ref.config import TokenLayout
from ttt_ref.errors import AudioError, ConfigError


def check_turn(layout: TokenLayout, history: Any, seed: Any) -> None:
    """Refuse a history of ids that the model does not know, and a seed that cannot be.

    Raises:
        ConfigError: in one line.
    """
    seed_of(seed)
    token_ids("the history", history, layout.vocab_size)


def check_audio(audio: Any) -> None:
    """Refuse what is not finite float audio [T].

    Raises:
        AudioError: in one line.
    """
    if not isinstance(audio, np.ndarray) or audio.dtype.kind != "f":
        kind = f"an array of {audio.dtype}" if isinstance(audio, np.ndarray) else shown(audio)
        raise AudioError(f"audio is {kind}; give float32 samples [T], -1 .. 1")
    if audio.ndim != 1:
        raise AudioError(f"audio has the shape {audio.shape}; give one channel [T]")
    if not np.isfinite(audio).all():
        raise AudioError("audio contains NaN or infinite samples; repair the recording")


def text_of(name: str, text: Any) -> str:
    """Return a text without white space around it; ConfigError for what is none."""
    if not isinstance(text, str):
        raise ConfigError(f"{name} is {shown(text)}; expected text")
    return text.strip()
