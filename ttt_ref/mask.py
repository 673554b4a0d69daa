"""The hybrid attention rule: causal text, bidirectional runs of audio."""

from __future__ import annotations

import torch
from torch import Tensor


def attend_mask(ids: Tensor, audio_start: int, key_mask: Tensor | None = None) -> Tensor:
    """Return which position may attend to which.

    Position i sees j if j <= i, or if both lie in the same run of audio-side ids (ids at or above
    ``audio_start`` with no text id between them). The rule knows nothing of prompt and answer:
    the user's speech is bidirectional too. Padding is a text id; it only hides keys.

    Args:
        ids: token ids, int64 [B, L].
        audio_start: first id of the audio side.
        key_mask: 1 or True for real tokens, [B, L]; a 0 hides the position from every query, also
            from itself. A left-padded row then allows nothing at all. None: no padding.

    Returns:
        bool [B, L, L], True where query i (axis 1) may attend to key j (axis 2).
    """
    length = ids.shape[1]
    is_audio = ids >= audio_start  # [B, L]
    # Counting text ids numbers the runs: no text id between means the same count.
    run = torch.cumsum(~is_audio, dim=1)  # [B, L]
    both_audio = is_audio[:, :, None] & is_audio[:, None, :]
    same_run = both_audio & (run[:, :, None] == run[:, None, :])
    causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
    allow = causal | same_run
    if key_mask is not None:
        allow = allow & key_mask.to(torch.bool)[:, None, :]
    return allow
