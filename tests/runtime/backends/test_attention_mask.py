"""The mask rule against its one-line definition."""

from __future__ import annotations

import numpy as np
import pytest

from ttt_runtime.backends.attention_mask import write_mask
from ttt_runtime.decode.scheduler import chunk_stop, open_run_start

AUDIO_START = 5


def allowed(ids: list[int], i: int, j: int) -> bool:
    """Position i sees j if j <= i, or if both lie in one run of audio-side ids."""
    low, high = min(i, j), max(i, j)
    return j <= i or all(x >= AUDIO_START for x in ids[low : high + 1])


@pytest.mark.parametrize("seed", range(30))
def test_mask_equals_the_definition_from_every_run_boundary(seed: int) -> None:
    rng = np.random.default_rng(seed)
    length = int(rng.integers(1, 90))
    ids = rng.integers(0, 10, length).tolist()
    for start in range(length):
        if start and ids[start] >= AUDIO_START and ids[start - 1] >= AUDIO_START:
            continue  # inside a run: no forward ever starts there
        columns = length + int(rng.integers(0, 9))
        mask = rng.random((length - start, columns)) < 0.5  # whatever was in the buffer
        write_mask(np.array(ids[start:]), start, AUDIO_START, mask)
        expected = np.zeros_like(mask)
        for q in range(length - start):
            for j in range(length):
                expected[q, j] = allowed(ids, start + q, j)
        np.testing.assert_array_equal(mask, expected)


def test_single_row() -> None:
    mask = np.zeros((1, 8), dtype=bool)
    write_mask(np.array([9]), 3, AUDIO_START, mask)
    assert mask[0].tolist() == [True] * 4 + [False] * 4


@pytest.mark.parametrize("seed", range(20))
def test_prefill_chunks_never_cut_a_run(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 10, 60).tolist()
    start, stops = 0, []
    while start < len(ids):
        start = chunk_stop(ids, start, 4, AUDIO_START)
        stops.append(start)
    assert stops == sorted(set(stops))
    assert stops[-1] == len(ids)
    for stop in stops[:-1]:
        assert ids[stop] < AUDIO_START or ids[stop - 1] < AUDIO_START


def test_open_run_start() -> None:
    ids = [1, 7, 8, 2, 9, 9, 9]
    assert [open_run_start(ids, stop, AUDIO_START) for stop in range(8)] == [0, 1, 1, 1, 4, 4, 4, 4]
    assert open_run_start([6, 6], 2, AUDIO_START) == 0
