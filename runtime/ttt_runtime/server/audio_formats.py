"""Sound as clients send and want it: raw PCM and G.711 for streams, files for HTTP.

Inside the server sound is float32 [T] at the codec's rate. Each stream has one resampler each way
for its whole life: joints between pieces are not heard.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from ttt_runtime.audio.wav_writer import pcm16, wav_header
from ttt_runtime.server import g711
from ttt_runtime.server.errors import ApiError

Audio = NDArray[np.float32]
PCM_RATE_HZ: Final = 24_000
_OLD_NAMES: Final = {
    "pcm16": "audio/pcm",
    "g711_ulaw": "audio/pcmu",
    "g711_alaw": "audio/pcma",
}
_LAWS: Final[dict[str, g711.Law]] = {"audio/pcmu": "pcmu", "audio/pcma": "pcma"}
# Rates of raw PCM: the API's own, and those that devices have.
_PCM_RATES: Final = (8_000, 16_000, 24_000, 44_100, 48_000)


@dataclass(frozen=True, slots=True)
class StreamFormat:
    """A raw format: `audio/pcm` (16 bit little-endian), `audio/pcmu` or `audio/pcma`."""

    type: str
    rate_hz: int

    @classmethod
    def parse(cls, value: Any, param: str) -> StreamFormat:
        """Read the API's object, or one of its old names; ApiError says what is wrong."""
        if isinstance(value, str):
            value = {"type": _OLD_NAMES.get(value, value)}
        if not isinstance(value, dict):
            raise ApiError(f"{param} is {value!r:.60}; expected an object with type", param=param)
        kind = value.get("type")
        if kind in _LAWS:
            if value.get("rate", g711.RATE_HZ) != g711.RATE_HZ:
                raise ApiError(f"{kind} has the rate {g711.RATE_HZ}", param=param)
            return cls(kind, g711.RATE_HZ)
        if kind != "audio/pcm":
            raise ApiError(
                f"{param} has the type {kind!r:.60}; expected audio/pcm, audio/pcmu or audio/pcma",
                param=param,
            )
        rate = value.get("rate", PCM_RATE_HZ)
        if rate not in _PCM_RATES or isinstance(rate, bool):
            raise ApiError(
                f"{param} has the rate {rate!r:.60}; expected one of "
                f"{', '.join(map(str, _PCM_RATES))}",
                param=param,
            )
        return cls(kind, int(rate))

    def to_dict(self) -> dict[str, Any]:
        """Return the API's form."""
        if self.type in _LAWS:
            return {"type": self.type}
        return {"type": self.type, "rate": self.rate_hz}


class InputAudio:
    """Bytes of a stream in, audio float32 [t] at `rate_hz` out."""

    def __init__(self, source: StreamFormat, rate_hz: int) -> None:
        self._source = source
        self._half = b""
        self._resampler = _resampler(source.rate_hz, rate_hz)

    def push(self, data: bytes) -> Audio:
        """Take the next bytes; half a sample waits for the rest."""
        if self._source.type in _LAWS:
            audio = g711.decode(data, _LAWS[self._source.type])
        else:
            data = self._half + data
            whole = len(data) // 2 * 2
            self._half = data[whole:]
            audio = np.frombuffer(data[:whole], "<i2").astype(np.float32) / 32768.0
        return audio if self._resampler is None else _resampled(self._resampler, audio)

    def finish(self) -> Audio:
        """Return what the resampler still held; the next push begins a new sound."""
        self._half = b""
        if self._resampler is None:
            return np.zeros(0, np.float32)
        audio = _resampled(self._resampler, np.zeros(0, np.float32), last=True)
        self._resampler.clear()
        return audio


class OutputAudio:
    """Audio float32 [t] at `rate_hz` in, bytes of a stream out."""

    def __init__(self, target: StreamFormat, rate_hz: int) -> None:
        self._target = target
        self._resampler = _resampler(rate_hz, target.rate_hz)

    @property
    def bytes_per_second(self) -> int:
        """Bytes of a second of sound."""
        return self._target.rate_hz * (1 if self._target.type in _LAWS else 2)

    def push(self, audio: Audio) -> bytes:
        """Return the bytes that became final."""
        return self._encoded(audio, last=False)

    def finish(self) -> bytes:
        """Return what the resampler still held; the next push begins a new sound."""
        data = self._encoded(np.zeros(0, np.float32), last=True)
        if self._resampler is not None:
            self._resampler.clear()
        return data

    def _encoded(self, audio: Audio, *, last: bool) -> bytes:
        if self._resampler is not None:
            audio = _resampled(self._resampler, audio, last=last)
        if self._target.type in _LAWS:
            return g711.encode(audio, _LAWS[self._target.type])
        return pcm16(audio)


def _resampler(source_hz: int, target_hz: int) -> Any:
    if source_hz == target_hz:
        return None
    return soxr.ResampleStream(source_hz, target_hz, 1, dtype="float32", quality="HQ")


def _resampled(resampler: Any, audio: Audio, *, last: bool = False) -> Audio:
    result: Audio = resampler.resample_chunk(np.ascontiguousarray(audio), last=last)
    return result


FileFormat = Literal["mp3", "opus", "flac", "wav", "pcm"]
FILE_FORMATS: Final[dict[str, str]] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
_SNDFILE: Final = {
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "opus": ("OGG", "OPUS"),
    "flac": ("FLAC", "PCM_16"),
}


def parse_file_format(value: Any, param: str = "response_format") -> FileFormat:
    """Return a format for files; ApiError for one that is not made here."""
    if not isinstance(value, str) or value not in FILE_FORMATS:
        raise ApiError(
            f"{param} is {value!r:.60}; expected one of {', '.join(FILE_FORMATS)}", param=param
        )
    return cast(FileFormat, value)


class FileEncoder:
    """Encodes one sound of 24 kHz as it comes.

    The length of a wav is left open in its header. That of a flac cannot be for every reader, so
    flac comes as a whole at the end.
    """

    def __init__(self, kind: FileFormat, rate_hz: int) -> None:
        self._kind = kind
        self._resampler = _resampler(rate_hz, PCM_RATE_HZ)
        self._spool = _Spool(holds=kind == "flac")
        self._file: Any = None
        if kind in _SNDFILE:
            name, subtype = _SNDFILE[kind]
            # Of an mp3 without a length readers infer it from the rate of its bits (64 kbit/s).
            constant = {"bitrate_mode": "CONSTANT", "compression_level": 0.6}
            mode: dict[str, Any] = constant if kind == "mp3" else {}
            self._file = soundfile.SoundFile(
                self._spool, "w", PCM_RATE_HZ, 1, subtype, format=name, **mode
            )
        elif kind == "wav":
            self._spool.write(wav_header(PCM_RATE_HZ, None))

    def push(self, audio: Audio) -> bytes:
        """Return the bytes that became final."""
        self._write(audio, last=False)
        return self._taken()

    def finish(self) -> bytes:
        """End the sound."""
        self._write(np.zeros(0, np.float32), last=True)
        if self._file is not None:
            self._file.close()
        self._spool.holds = False
        return self._taken()

    def _write(self, audio: Audio, *, last: bool) -> None:
        if self._resampler is not None:
            audio = _resampled(self._resampler, audio, last=last)
        if self._file is not None:
            self._file.write(audio)
        else:
            self._spool.write(pcm16(audio))

    def _taken(self) -> bytes:
        first = self._spool.taken == 0
        data = self._spool.take()
        return _without_length_frame(data) if self._kind == "mp3" and first else data


class _Spool(io.RawIOBase):
    """A file for libsndfile whose beginning leaves before its end is there.

    What it would change later in bytes that have left (lengths in headers) is dropped.
    """

    def __init__(self, *, holds: bool) -> None:
        super().__init__()
        self.holds = holds
        self.taken = 0
        self._data = bytearray()
        self._position = 0

    def take(self) -> bytes:
        if self.holds:
            return b""
        data = bytes(self._data)
        self.taken += len(data)
        self._data.clear()
        return data

    def write(self, data: Any) -> int:
        place = self._position - self.taken
        self._position += len(data)
        if place >= 0:
            self._data[place : place + len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._position, self.taken + len(self._data))[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True


# Bit rates in kbit/s of MPEG-2 layer III, by their index in a frame's header.
_MPEG2_KBITS: Final = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


def _without_length_frame(data: bytes) -> bytes:
    """Drop an mp3's first frame: it is kept free for a length, which a stream has not."""
    if any(data[4:36]):
        return data
    padding = data[2] >> 1 & 1
    return data[72 * 1000 * _MPEG2_KBITS[data[2] >> 4] // PCM_RATE_HZ + padding :]
