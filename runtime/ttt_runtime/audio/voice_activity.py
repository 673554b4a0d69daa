"""How likely speech is in a piece of sound: Silero's network in our own session, or plain energy.

`silero_vad_16k.onnx` is the graph of the PyPI package silero-vad 6.2.3 (MIT, its licence lies
beside it) with its weights stored in 16 bit; `recipes/voice_activity.py` made it. On our own
recordings no frame's decision changed and no probability by more than 0.01.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ttt_ref.errors import AudioError, ConfigError
from ttt_ref.package import install_command

Audio = NDArray[np.float32]

RATE_HZ: Final = 16_000
FRAME_SAMPLES: Final = 512  # 32 ms, what the network was trained on
SILERO: Final = Path(__file__).with_name("silero_vad_16k.onnx")
_CONTEXT_SAMPLES: Final = 64  # of the frame before; without them it never fires
DetectorKind = Literal["silero", "energy"]


class VoiceDetector(Protocol):
    """Judges 16 kHz sound frame by frame."""

    def probability(self, audio: Audio) -> float:
        """Take a frame float32 [512]; return the probability of speech in it."""

    def reset(self) -> None:
        """Forget what was heard."""


class SileroDetector:
    """Silero VAD v6: one thread, without spinning, about 1 % of a core.

    Raises:
        AudioError: onnxruntime is missing or cannot load the graph.
    """

    def __init__(self, path: Path = SILERO) -> None:
        self._session = _session(path)
        self._rate = np.array(RATE_HZ, np.int64)
        self._state = np.zeros((2, 1, 128), np.float32)
        self._input = np.zeros((1, _CONTEXT_SAMPLES + FRAME_SAMPLES), np.float32)

    def probability(self, audio: Audio) -> float:
        """Take a frame float32 [512]; return the probability of speech in it."""
        self._input[0, :_CONTEXT_SAMPLES] = self._input[0, -_CONTEXT_SAMPLES:]
        self._input[0, _CONTEXT_SAMPLES:] = audio
        feeds = {"input": self._input, "state": self._state, "sr": self._rate}
        output, self._state = self._session.run(None, feeds)
        return float(output[0, 0])

    def reset(self) -> None:
        """Forget what was heard."""
        self._state = np.zeros((2, 1, 128), np.float32)
        self._input[:] = 0


@lru_cache(maxsize=4)
def _session(path: Path) -> Any:
    """Load a graph once: what differs from detector to detector is their state only."""
    try:
        import onnxruntime as ort
    except ImportError:
        raise AudioError(
            f"the voice detector needs onnxruntime; run: {install_command('cpu')}, or take "
            "--voice energy"
        ) from None
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    if hasattr(options, "use_per_session_threads"):  # older ones share none
        options.use_per_session_threads = True
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common class
        reason = str(error).splitlines()[0]
        raise AudioError(f"the voice detector {path.name} cannot be loaded: {reason}") from None


class EnergyDetector:
    """Louder than the room: for machines without onnxruntime. Fooled by any noise that begins.

    The room's level is the lowest of the last seconds; speech is 8 dB and more above it.
    """

    _MARGIN_DB: Final = 8.0
    _LOWEST_DB: Final = -55.0
    _RISE_DB: Final = 0.06  # a frame, about 2 dB a second

    def __init__(self) -> None:
        self._floor = self._LOWEST_DB

    def probability(self, audio: Audio) -> float:
        """Take a frame float32 [512]; return the probability of speech in it."""
        level = level_db(audio)
        self._floor = min(level, self._floor + self._RISE_DB)
        above = level - max(self._floor, self._LOWEST_DB) - self._MARGIN_DB
        return float(1.0 / (1.0 + np.exp(-above / 2.0)))

    def reset(self) -> None:
        """Forget the room."""
        self._floor = self._LOWEST_DB


def level_db(audio: Audio) -> float:
    """Return the level of audio [T] in dB of full scale, -120 at the least."""
    if not len(audio):
        return -120.0
    power = float(np.mean(np.square(audio, dtype=np.float64)))
    return 10.0 * float(np.log10(max(power, 1e-12)))


def voice_detector(kind: str) -> VoiceDetector:
    """Return a detector by name; ConfigError for an unknown one."""
    if kind == "silero":
        return SileroDetector()
    if kind == "energy":
        return EnergyDetector()
    raise ConfigError(f"unknown voice detector {kind!r}; expected silero or energy")
