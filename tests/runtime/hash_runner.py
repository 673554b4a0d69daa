"""A runner without a model: each hidden row is a checksum of everything that it may see.

One id too many, too few or stale in the cache changes all that follows. Thousands of turns a
minute; for tests of what the engine keeps and forgets.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Sequence

import numpy as np

from ttt_ref.config import TokenLayout
from ttt_runtime.backends.base import Floats, HeadBest


class HashRunner:
    """The runner protocol; its cache holds one checksum a row. It knows no logits."""

    top_k_finder = None
    note = None

    def __init__(self, layout: TokenLayout, capacity: int = 2048) -> None:
        self.layout = layout
        self.capacity = capacity
        self.runs_in = "nothing"
        self.keys: list[int] = []  # a row's checksum stands for its K/V
        self.seen: list[int] = [0]  # seen[p] = checksum of the keys of all rows below p
        self.forwards = 0
        self._cancel: tuple[threading.Event, int] | None = None

    def cancel_after(self, cancel: threading.Event, forwards: int) -> None:
        """Set `cancel` in the forward that comes after so many others."""
        self._cancel = cancel, self.forwards + forwards

    def forward(
        self,
        ids: Sequence[int],
        start: int,
        *,
        positions: Sequence[int] | None = None,
        scratch: bool = False,
    ) -> Floats:
        assert not scratch
        assert positions is None
        assert start <= len(self.keys), "rows were never written"
        self.forwards += 1
        if self._cancel is not None and self.forwards > self._cancel[1]:
            self._cancel[0].set()
        del self.keys[start:], self.seen[start + 1 :]
        is_audio = self.layout.is_audio
        first = 0
        while first < len(ids):
            stop = first + 1
            while is_audio(ids[first]) and stop < len(ids) and is_audio(ids[stop]):
                stop += 1
            run = np.array(ids[first:stop], dtype=np.int64).tobytes()
            sees = zlib.crc32(run, self.seen[start + first])
            for position in range(start + first, start + stop):
                self.keys.append(zlib.crc32(position.to_bytes(4, "little"), sees))
            for key in self.keys[start + first : start + stop]:
                self.seen.append(zlib.crc32(key.to_bytes(4, "little"), self.seen[-1]))
            first = stop
        mask_id = self.layout.mask_id
        rows = [(key, token == mask_id) for key, token in zip(self.keys[start:], ids, strict=True)]
        return np.array(rows, dtype=np.float64)  # type: ignore[return-value]

    def text_best(self, hidden: Floats, *, forbid_end: bool) -> HeadBest:
        layout = self.layout
        special = {0: layout.begin_of_audio_id, 1: layout.begin_of_quad_id}
        if not forbid_end:
            special[2] = layout.im_end_id
        ids = [special.get(int(h) % 12, 33 + int(h) // 12 % 50) for h in hidden[:, 0]]
        return self._best(hidden, ids, 1 - hidden[:, 1])

    def speech_best(self, hidden: Floats) -> HeadBest:
        layout = self.layout
        ends = {0: layout.end_of_audio_new_id, 1: layout.end_of_audio_span_last_id}
        ids = [
            ends.get(int(h) % 14, layout.code_offset + int(h) // 14 % layout.num_codes)
            for h in hidden[:, 0]
        ]
        return self._best(hidden, ids, hidden[:, 1])

    def text_logits(self, hidden: Floats, *, forbid_end: bool) -> Floats:
        raise NotImplementedError

    def speech_logits(self, hidden: Floats) -> Floats:
        raise NotImplementedError

    @staticmethod
    def _best(hidden: Floats, ids: list[int], logits: Floats) -> HeadBest:
        return HeadBest(np.array(ids), logits, 1 + hidden[:, 0] % 97 / 97)
