"""PCM of any rate, width and number of channels, as Wyoming's events state it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import soxr

from ttt_runtime.audio.reader import Audio
from ttt_runtime.server.errors import ApiError

_RATES: Final = range(8_000, 192_001)
_CHANNELS: Final = range(1, 9)
_TYPES: Final = {1: "u1", 2: "<i2", 4: "<i4"}


class PcmInput:
    """Frames of PCM in, audio float32 [t] of one channel at `rate_hz` out."""

    def __init__(self, source_hz: int, width: int, channels: int, rate_hz: int) -> None:
        self._type, self._width, self._channels = _TYPES[width], width, channels
        self._rest = b""
        self._resampler: Any = None
        if source_hz != rate_hz:
            self._resampler = soxr.ResampleStream(source_hz, rate_hz, 1, dtype="float32")

    @classmethod
    def of(cls, data: dict[str, Any], rate_hz: int) -> PcmInput:
        """Read an event's rate, width (bytes of a sample) and channels.

        Raises:
            ApiError: a format that this server does not take.
        """
        rate: Any = data.get("rate")
        width: Any = data.get("width")
        channels: Any = data.get("channels", 1)
        valid = all(type(value) is int for value in (rate, width, channels))
        if not valid or rate not in _RATES or width not in _TYPES or channels not in _CHANNELS:
            raise ApiError(
                f"audio of rate {rate!r:.20}, width {width!r:.20}, channels {channels!r:.20}; "
                "expected 8000 .. 192000 Hz, width 1, 2 or 4, at most 8 channels"
            )
        return cls(rate, width, channels, rate_hz)

    def push(self, data: bytes) -> Audio:
        """Take the next bytes; part of a frame waits for the rest."""
        data = self._rest + data
        whole = len(data) // (self._width * self._channels) * self._width * self._channels
        self._rest = data[whole:]
        samples = np.frombuffer(data[:whole], self._type).astype(np.float32)
        if self._width == 1:
            samples -= 128.0
        samples /= float(1 << (8 * self._width - 1))
        audio: Audio = samples.reshape(-1, self._channels).mean(axis=1, dtype=np.float32)
        if self._resampler is not None:
            audio = self._resampler.resample_chunk(audio)
        return audio

    def finish(self) -> Audio:
        """Return what the resampler still held."""
        if self._resampler is None:
            return np.zeros(0, np.float32)
        audio: Audio = self._resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        return audio
