"""A hook for wake words, and one kept engine behind it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ttt_ref.errors import AudioError, ConfigError
from ttt_ref.package import install_command


class WakeWord(Protocol):
    """Listens for one word."""

    def push(self, audio: NDArray[np.int16]) -> bool:
        """Take 16 kHz int16 [T]; return True when the word has just been said."""

    def reset(self) -> None:
        """Forget what was heard."""


class MicroWakeWord:
    """The models of the package pymicro-wakeword ("okay nabu" among them)."""

    def __init__(self, name: str = "okay_nabu") -> None:
        try:
            from pymicro_wakeword import MicroWakeWord as Model
            from pymicro_wakeword import MicroWakeWordFeatures
            from pymicro_wakeword import Model as Names
        except ImportError:
            raise AudioError(
                f"wake words need pymicro-wakeword; run: {install_command('wake')}, or take "
                "--mode push_to_talk"
            ) from None
        known = {model.value: model for model in Names}
        if name not in known:
            raise ConfigError(f"unknown wake word {name!r}; there are {', '.join(known)}")
        self._model: Any = Model.from_builtin(known[name])
        self._features: Any = MicroWakeWordFeatures()

    def push(self, audio: NDArray[np.int16]) -> bool:
        """Take 16 kHz int16 [T]; return True when the word has just been said."""
        found = False
        for features in self._features.process_streaming(audio.tobytes()):
            found = bool(self._model.process_streaming(features)) or found
        return found

    def reset(self) -> None:
        """Forget what was heard."""
        self._model.reset()
        self._features.reset()
