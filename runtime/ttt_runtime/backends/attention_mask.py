"""The attention rule as a boolean mask: causal text, bidirectional runs of audio."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def write_mask(
    ids: NDArray[np.int64], start: int, audio_start: int, out: NDArray[np.bool_]
) -> None:
    """Write which cache rows each query row may attend to.

    Query row q stands at position `start + q`. It sees position j if j <= start + q, or if both
    lie in one run of audio-side ids (`id >= audio_start`, no text id between them). `start` must
    be a run boundary: then no run of these rows reaches back before `start`.

    Args:
        ids: ids of the query rows, int64 [Q].
        start: position of the first query row, which is also its cache row.
        audio_start: first id of the audio side.
        out: bool [Q, C], C >= start + Q; rows of the cache behind the last query become False.
    """
    rows = ids.shape[0]
    stop = start + rows
    out[:, stop:] = False
    out[:, :start] = True
    if rows == 1:
        out[0, start] = True
        return
    is_audio = ids >= audio_start  # [Q]
    # Two audio rows share a run when as many text ids came before one as before the other; a
    # text row gets a number of its own (negative), so that it equals nothing but itself.
    run: NDArray[np.int64] = np.cumsum(~is_audio, dtype=np.int64)
    np.negative(run, out=run, where=~is_audio)
    block = out[:, start:stop]
    np.equal(run[:, None], run[None, :], out=block)
    block |= _causal(rows)


_TRIANGLE = np.tri(64, dtype=np.bool_)


def _causal(rows: int) -> NDArray[np.bool_]:
    return _TRIANGLE[:rows, :rows] if rows <= 64 else np.tri(rows, dtype=np.bool_)
