"""Sound whose header is missing or unfinished: raw samples, and WAV files without their length."""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from ttt_ref.errors import ConfigError

# What the option calls a sample format -> libsndfile's subtype and byte order.
RAW_FORMATS: Final[dict[str, tuple[str, str]]] = {
    "s16le": ("PCM_16", "LITTLE"),
    "s16be": ("PCM_16", "BIG"),
    "s8": ("PCM_S8", "FILE"),
    "u8": ("PCM_U8", "FILE"),
    "s24le": ("PCM_24", "LITTLE"),
    "s24be": ("PCM_24", "BIG"),
    "s32le": ("PCM_32", "LITTLE"),
    "s32be": ("PCM_32", "BIG"),
    "f32le": ("FLOAT", "LITTLE"),
    "f32be": ("FLOAT", "BIG"),
    "f64le": ("DOUBLE", "LITTLE"),
    "f64be": ("DOUBLE", "BIG"),
    "mulaw": ("ULAW", "FILE"),
    "alaw": ("ALAW", "FILE"),
}
MOST_RAW_CHANNELS: Final = 64
_LONGEST_HEADER: Final = 1 << 16


@dataclass(frozen=True)
class RawFormat:
    """Samples without a header: rate, format (a key of `RAW_FORMATS`) and channels."""

    rate_hz: int
    format: str = "s16le"
    channels: int = 1

    @classmethod
    def parse(cls, text: str) -> RawFormat:
        """Read `RATE[:FORMAT[:CHANNELS]]`, as in `16000` or `8000:mulaw`; ConfigError if wrong."""
        rate, _, rest = text.partition(":")
        name, _, channels = rest.partition(":")
        name, channels = name or "s16le", channels or "1"
        good = rate.isascii() and rate.isdigit() and len(rate) < 8 and int(rate) > 0
        good = good and name in RAW_FORMATS
        if not good or channels not in map(str, range(1, MOST_RAW_CHANNELS + 1)):
            raise ConfigError(
                f"--raw is {text!r}; expected RATE[:FORMAT[:CHANNELS]], such as 16000 or "
                f"8000:mulaw, with a format of {', '.join(RAW_FORMATS)}"
            )
        return cls(int(rate), name, int(channels))

    def options(self) -> dict[str, Any]:
        """Return the keywords of `soundfile.SoundFile`."""
        subtype, endian = RAW_FORMATS[self.format]
        return {
            "samplerate": self.rate_hz,
            "channels": self.channels,
            "format": "RAW",
            "subtype": subtype,
            "endian": endian,
        }


def without_length(file: BinaryIO | Any) -> BinaryIO | None:
    """Return a copy of a WAV file with its length, if its recorder died before writing it.

    None for anything else, which is also a file that really holds nothing. The file's position
    afterwards is not defined.
    """
    file.seek(0)
    head = file.read(_LONGEST_HEADER)
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    size = file.seek(0, os.SEEK_END)
    at = 12
    while at + 8 <= len(head):
        name, length = head[at : at + 4], struct.unpack_from("<I", head, at + 4)[0]
        if name == b"data":
            break
        at += 8 + length + length % 2
    else:
        return None
    begin = at + 8
    if length or size - begin < 2 or _are_chunks(head[begin:], size - begin):
        return None
    copy = tempfile.TemporaryFile()  # noqa: SIM115 (the caller closes it)
    try:
        file.seek(0)
        shutil.copyfileobj(file, copy)
        for place, value in ((4, size - 8), (at + 4, size - begin)):
            copy.seek(place)
            copy.write(struct.pack("<I", min(value, 0xFFFFFFFF)))
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy


def _are_chunks(data: bytes, size: int) -> bool:
    """Tell whether what follows empty samples are further chunks, such as a list of tags."""
    at = 0
    while at + 8 <= len(data) and data[at : at + 4].isalnum():
        length = struct.unpack_from("<I", data, at + 4)[0]
        at += 8 + length + length % 2
        if at >= size:
            return bool(at <= size + 1)
    return False
