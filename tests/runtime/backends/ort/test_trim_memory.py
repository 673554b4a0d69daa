"""Memory that is given back must not change what is read."""

from __future__ import annotations

import mmap
import sys

import numpy as np
import pytest

from ttt_runtime.backends.ort.trim_memory import forget_pages, whole_pieces

SIZE = 4 << 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_clean_pages_go_and_come_back(tmp_path):
    path = tmp_path / "weights"
    data = np.random.default_rng(0).integers(0, 255, SIZE, np.uint8)
    path.write_bytes(data.tobytes())
    mapped = np.memmap(path, np.uint8, "r")
    assert mapped.sum() == data.sum()
    assert forget_pages([path]) >= SIZE // 2
    assert forget_pages([path]) < SIZE // 2  # nothing resident is left
    np.testing.assert_array_equal(mapped, data)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_mapping_that_was_written_to_is_left_alone(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(bytes(SIZE))
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), SIZE, flags=mmap.MAP_PRIVATE, prot=3)
    mapped[100] = 7
    assert forget_pages([path]) == 0
    assert mapped[100] == 7


def test_other_files_are_not_touched(tmp_path):
    assert forget_pages([tmp_path / "nowhere"]) == 0


def test_pieces_may_fail_and_nest():
    with pytest.raises(KeyError), whole_pieces(), whole_pieces():
        raise KeyError
    with whole_pieces():
        kept = np.ones(1 << 20)
    assert kept.sum() == 1 << 20
