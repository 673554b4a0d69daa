"""How many mel frames speech tokens make, and which token each frame belongs to.

A token lasts 441 / 64 frames. The released rule for the token of a frame rounds in float32 over
the whole sequence; the exact one depends on the frame alone and therefore serves streams.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 22_050
HOP = 256
_NUMERATOR, _DENOMINATOR = 441, 64


def released_frames(tokens: int) -> int:
    """Return the mel frames of this many tokens, rounded in float32 as the released code does."""
    rate = np.float32(tokens) / np.float32(12.5) * np.float32(RATE_HZ)
    return int(np.float32(rate) / np.float32(HOP))


def released_index(tokens: int, frames: int) -> NDArray[np.int64]:
    """Return the token of each frame, int64 [F], by the released float32 rule."""
    index = np.arange(frames, dtype=np.float32) * np.float32(tokens / frames)
    token: NDArray[np.int64] = np.minimum(np.floor(index).astype(np.int64), tokens - 1)
    return token


def frames_before(tokens: int) -> int:
    """Return how many whole frames lie before the end of this many tokens: exact, no drift."""
    return tokens * _NUMERATOR // _DENOMINATOR


def first_frame_of(token: int) -> int:
    """Return the first frame that begins at or after the begin of a token."""
    return -(-token * _NUMERATOR // _DENOMINATOR)


def token_of(frame: int) -> int:
    """Return the token that a frame begins in."""
    return frame * _DENOMINATOR // _NUMERATOR


def exact_index(first_frame: int, last_frame: int) -> NDArray[np.int64]:
    """Return the token of frames first_frame .. last_frame - 1, int64 [F]."""
    frames = np.arange(first_frame, last_frame, dtype=np.int64)
    return frames * _DENOMINATOR // _NUMERATOR
