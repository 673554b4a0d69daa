"""What the kernels find of long logits, against numpy's way."""

from __future__ import annotations

import numpy as np
import pytest

from tests.runtime.backends.native.test_product import COMPILED
from ttt_runtime.backends.native.kernels import Kernels
from ttt_runtime.backends.native.library import missing
from ttt_runtime.backends.native.top_k import LONGEST, NativeTopK
from ttt_runtime.decode.sampling import largest, sum_of_exp

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
CASES = [((5,), 5), ((4096,), 1), ((4097, 3), 7), ((151_665, 16_407), 10), ((300, 40), 256)]


@pytest.mark.parametrize("variant", COMPILED)
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(("widths", "count"), CASES)
def test_the_largest_and_the_sum_are_numpys(variant, threads, widths, count):
    rng = np.random.default_rng(count)
    parts = [rng.normal(0, 3, width).astype(np.float32) for width in widths]
    for values in parts:
        values[rng.integers(0, len(values), 3)] = 9.5  # equals: the first of them comes first
    top_k_finder = NativeTopK(Kernels(threads, variant))
    assert top_k_finder.is_worthwhile(parts, count)
    for per_unit in (np.float32(1), np.float32(0.7)):
        ids, values, total = top_k_finder.find(parts, count, per_unit)
        wanted_ids, wanted_values = largest(parts, count)
        np.testing.assert_array_equal(ids, wanted_ids)
        np.testing.assert_array_equal(values, wanted_values)
        np.testing.assert_allclose(total, sum_of_exp(parts, wanted_values[0], per_unit), rtol=1e-5)


def test_what_it_does_not_serve():
    top_k_finder = NativeTopK(Kernels(1))
    logits = np.zeros(1000, np.float32)
    assert not top_k_finder.is_worthwhile([logits], LONGEST + 1)
    assert not top_k_finder.is_worthwhile([logits], 0)
    assert not top_k_finder.is_worthwhile([logits[:5]], 6)
    assert not top_k_finder.is_worthwhile([logits] * 3, 5)


def test_the_number_of_threads_does_not_change_the_sum():
    logits = np.random.default_rng(0).normal(size=50_000).astype(np.float32)
    found = [NativeTopK(Kernels(n)).find([logits], 10, np.float32(1))[2] for n in (1, 2, 3, 7)]
    assert len(set(found)) == 1
