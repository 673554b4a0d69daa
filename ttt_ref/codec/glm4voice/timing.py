"""How many mel frames speech tokens make, and which token each frame belongs to.

A token lasts 441 / 64 frames. Two rules exist for the token of a frame: the released one, which
rounds in float32 over the whole sequence, and the exact one, which depends on the frame alone and
therefore serves streams.
"""

from __future__ import annotations

import torch
from torch import Tensor

FRAMES_NUMERATOR, FRAMES_DENOMINATOR = 441, 64  # 22050 / 256 / 12.5


def frames_of(tokens: int) -> int:
    """Return the number of mel frames of this many tokens, rounded in float32 like upstream."""
    value = torch.tensor(float(tokens)) / 12.5 * 22050.0 / 256.0
    return int(value)


def released_index(tokens: int, frames: int) -> Tensor:
    """Return the token of each frame, int64 [F], by upstream's float32 nearest rule."""
    scale = torch.tensor(tokens / frames, dtype=torch.float32)
    index = torch.arange(frames, dtype=torch.float32) * scale
    return index.floor().long().clamp(max=tokens - 1)


def frames_before(tokens: int) -> int:
    """Return how many whole frames lie before the end of this many tokens: exact, no drift."""
    return tokens * FRAMES_NUMERATOR // FRAMES_DENOMINATOR


def first_frame_of(token: int) -> int:
    """Return the first frame that begins at or after the begin of a token."""
    return -(-token * FRAMES_NUMERATOR // FRAMES_DENOMINATOR)


def exact_index(first_frame: int, last_frame: int) -> Tensor:
    """Return the token of frames first_frame .. last_frame - 1, int64 [F]."""
    frames = torch.arange(first_frame, last_frame)
    return frames * FRAMES_DENOMINATOR // FRAMES_NUMERATOR
