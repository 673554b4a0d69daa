"""Echo cancellation, noise suppression and level control of a microphone beside a loudspeaker.

A processor takes 10 ms of the microphone and the 10 ms that really left the loudspeaker in the
same moment, silence included; the way from one to the other (20 to 250 ms) it finds itself.
"""

from __future__ import annotations

from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ttt_ref.errors import AudioError, ConfigError
from ttt_ref.package import install_command

Pcm = NDArray[np.int16]

RATE_HZ: Final = 16_000
CHUNK_SAMPLES: Final = 160  # 10 ms
# webrtc: all three; half_duplex: deaf while the answer plays; off: headphones.
EchoKind = Literal["webrtc", "half_duplex", "off"]
ECHO_KINDS: tuple[EchoKind, ...] = ("webrtc", "half_duplex", "off")


class EchoProcessor(Protocol):
    """Cleans the microphone's sound."""

    def process(self, mic: Pcm, played: Pcm) -> Pcm:
        """Take int16 [160] of microphone and loudspeaker; return the cleaned int16 [160]."""

    def reset(self) -> None:
        """Forget the room: the streams began anew."""


class WebRtcProcessor:
    """AEC3, noise suppression and automatic gain of WebRTC, by the package pywebrtc-audio."""

    def __init__(self, *, level_control: bool = False) -> None:
        try:
            from pywebrtc_audio import AudioProcessor
        except ImportError:
            raise AudioError(
                f"echo cancellation needs pywebrtc-audio; run: {install_command('live')}, "
                "or take --echo half_duplex (or off, with headphones)"
            ) from None
        self._processor: Any = AudioProcessor(
            RATE_HZ,
            echo_cancellation=True,
            noise_suppression=True,
            auto_gain_control=level_control,
            agc_max_gain_db=20.0,
        )

    def process(self, mic: Pcm, played: Pcm) -> Pcm:
        """Take int16 [160] of microphone and loudspeaker; return the cleaned int16 [160]."""
        cleaned: Pcm = self._processor.process(mic, played)
        return cleaned

    def reset(self) -> None:
        """Forget the room."""
        self._processor.reset()


class HalfDuplex:
    """Hears nothing while something plays, and for a while after: needs no package, and no luck.

    Nobody can interrupt the answer by speaking.
    """

    def __init__(self, after_s: float = 0.3, threshold: int = 30) -> None:
        self._after = round(after_s * RATE_HZ)
        self._threshold = threshold  # of 32768; below it the loudspeaker is silent
        self._left = 0

    def process(self, mic: Pcm, played: Pcm) -> Pcm:
        """Return the microphone's int16 [160], or silence."""
        if len(played) and int(np.abs(played.astype(np.int32)).max()) > self._threshold:
            self._left = self._after
        elif self._left:
            self._left = max(self._left - len(mic), 0)
        return np.zeros_like(mic) if self._left else mic

    def reset(self) -> None:
        """Hear again."""
        self._left = 0


class Untouched:
    """Leaves the microphone as it is: headphones, or a device that cancels echo itself."""

    def process(self, mic: Pcm, played: Pcm) -> Pcm:
        """Return the microphone's int16 [160]."""
        return mic

    def reset(self) -> None:
        """Do nothing."""


def echo_processor(kind: str) -> EchoProcessor:
    """Return a processor by name.

    Raises:
        ConfigError: an unknown name.
        AudioError: its package is not installed.
    """
    if kind == "webrtc":
        return WebRtcProcessor()
    if kind == "half_duplex":
        return HalfDuplex()
    if kind == "off":
        return Untouched()
    raise ConfigError(f"unknown echo handling {kind!r}; expected {', '.join(ECHO_KINDS)}")
