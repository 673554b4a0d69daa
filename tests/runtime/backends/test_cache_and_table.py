"""KV cache and embedding table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.runtime.bundles import MODEL
from ttt_ref.errors import BundleError, ConfigError
from ttt_runtime.backends.kv_cache import KvCache
from ttt_runtime.bundle.embeddings import EmbeddingTable
from ttt_runtime.bundle.graph_spec import GraphSpec, decoder_spec


def test_rows_are_committed_and_cut_back() -> None:
    cache = KvCache(decoder_spec(MODEL), 10)
    assert cache.buffers["past_v.1"].shape == (1, 10, 4)
    cache.commit(6)
    cache.commit(10)
    cache.truncate(4)
    assert cache.committed == 4
    with pytest.raises(AssertionError):
        cache.truncate(5)  # nobody wrote rows 4 and up again
    with pytest.raises(AssertionError):
        cache.commit(11)
    cache.reset()
    assert cache.committed == 0


@pytest.mark.parametrize("layout", ["rows", "heads"])
def test_poison_marks_what_may_not_be_read(layout: str) -> None:
    cache = KvCache(decoder_spec(MODEL, layout=layout), 6, poison=True)  # type: ignore[arg-type]
    k = cache.buffers["past_k.0"]
    assert np.isnan(k).all()
    k[...] = 1
    cache.commit(6)
    cache.truncate(2)
    written = np.moveaxis(k, cache.row_axis, 0)
    assert (written[:2] == 1).all()
    assert np.isnan(written[2:]).all()


def test_caches_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="built for 64"):
        KvCache(decoder_spec(MODEL, 64), 32)
    with pytest.raises(ConfigError, match="bfloat16"):
        KvCache(decoder_spec(MODEL, dtype="bfloat16"), 32)
    with pytest.raises(BundleError, match="no past_k"):
        KvCache(GraphSpec("x", (), ()), 1)
    with pytest.raises(ConfigError, match="'columns'"):
        decoder_spec(MODEL, layout="columns")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_table_rows(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(0)
    table = (rng.normal(0, 50, (7, 4))).astype(dtype)
    table.tofile(tmp_path / "t.bin")
    scales = rng.random((7, 1)).astype(np.float32)
    scales.tofile(tmp_path / "s.bin")
    scales_path = tmp_path / "s.bin" if dtype == "int8" else None
    read = EmbeddingTable(tmp_path / "t.bin", dtype, 7, 4, scales_path)
    ids = np.array([6, 0, 0, 3])
    out = np.empty((4, 4), np.float32)
    read.gather(ids, out)
    expected = table[ids].astype(np.float32) * (scales[ids] if scales_path else 1)
    np.testing.assert_array_equal(out, expected)
