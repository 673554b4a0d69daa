"""G.711, the 8-bit sound of telephones: ITU-T G.711, as tables in both directions."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Law = Literal["pcmu", "pcma"]
RATE_HZ = 8000

_MU_BIAS = 132
_MU_LARGEST = 32635


def decode(data: bytes, law: Law) -> NDArray[np.float32]:
    """Return audio float32 [T] of T bytes."""
    samples: NDArray[np.float32] = _decode_table(law)[np.frombuffer(data, np.uint8)]
    return samples


def encode(audio: NDArray[np.float32], law: Law) -> bytes:
    """Return T bytes of audio float32 [T]; louder than full scale is clipped."""
    scaled = np.clip(np.nan_to_num(audio), -1.0, 1.0) * 32767.0
    samples = np.rint(scaled).astype(np.int16).view(np.uint16)
    return bytes(_encode_table(law)[samples].tobytes())


@cache
def _decode_table(law: Law) -> NDArray[np.float32]:
    code = np.arange(256, dtype=np.int32)
    code = ~code & 0xFF if law == "pcmu" else code ^ 0x55
    segment, step = code >> 4 & 7, code & 15
    if law == "pcmu":
        size = (((step << 3) + _MU_BIAS) << segment) - _MU_BIAS
        positive = code < 128
    else:
        size = np.where(
            segment == 0, (step << 4) + 8, ((step << 4) + 264) << np.maximum(segment - 1, 0)
        )
        positive = code >= 128
    return (np.where(positive, size, -size) / 32768.0).astype(np.float32)


@cache
def _encode_table(law: Law) -> NDArray[np.uint8]:
    """Codes of all 16-bit samples, in the order of their bits."""
    sample = np.arange(65536, dtype=np.uint16).view(np.int16).astype(np.int32)
    if law == "pcmu":
        size = np.minimum(np.abs(sample), _MU_LARGEST) + _MU_BIAS
        segment = _highest_bit(size) - 7
        code = np.where(sample < 0, 128, 0) | segment << 4 | size >> (segment + 3) & 15
        mu: NDArray[np.uint8] = (~code & 0xFF).astype(np.uint8)
        return mu
    size = np.where(sample < 0, -sample - 1, sample)
    segment = np.maximum(_highest_bit(size) - 7, 0)
    code = segment << 4 | size >> (np.maximum(segment, 1) + 3) & 15
    a: NDArray[np.uint8] = (code ^ np.where(sample < 0, 0x55, 0xD5)).astype(np.uint8)
    return a


def _highest_bit(value: NDArray[np.int32]) -> NDArray[np.int32]:
    return np.floor(np.log2(np.maximum(value, 1))).astype(np.int32)
