"""The kernels' products against their definition, in whole numbers and float64."""

from __future__ import annotations

from ctypes import pointer
from dataclasses import replace

import numpy as np
import pytest

from ttt_runtime.backends.native.graph import NotNativeError, StoredMatrix
from ttt_runtime.backends.native.kernels import Kernels
from ttt_runtime.backends.native.library import library_file, missing, suited
from ttt_runtime.backends.native.structures import Head, address
from ttt_runtime.backends.native.weights import HeadWeights

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


COMPILED = [name for name in suited() if library_file(name).is_file()]


@pytest.fixture(
    scope="module", params=[(name, threads) for name in COMPILED for threads in (1, 3)], ids=str
)
def kernels(request):
    variant, threads = request.param
    return Kernels(threads, variant)


def pairs(values):
    return values[..., 0::2] | (values[..., 1::2] << 4)


def draw_matrix(rng, inputs, outputs, bits, block, *, zeros=False, bias=False, by_rows=False):
    """Return a stored matrix and its codes around zero [inputs, outputs] and scales."""
    top = 1 << bits
    blocks = inputs // block
    codes = rng.integers(0, top, (outputs, blocks, block), dtype=np.uint8)
    scales = rng.uniform(0.5, 2, (outputs, blocks)).astype(np.float32)
    points = np.full((outputs, blocks), top // 2, np.uint8)
    if zeros:
        points = rng.integers(0, top, (outputs, blocks), dtype=np.uint8)
    offset = rng.normal(size=outputs).astype(np.float32) if bias else None
    plain = (codes.astype(np.int64) - points[..., None].astype(np.int64)).reshape(outputs, inputs)
    if by_rows:
        stored = StoredMatrix(
            *(inputs, outputs, 8, inputs, plain.T.astype(np.int8), scales[:, 0]),
            bias=offset,
            by_rows=True,
        )
        return stored, plain, np.repeat(scales[:, :1], 1, axis=1)
    kept = None
    if zeros:
        padded = np.pad(points, ((0, 0), (0, blocks % 2))) if bits == 4 else points
        kept = pairs(padded) if bits == 4 else padded
    packed = pairs(codes) if bits == 4 else codes
    stored = StoredMatrix(inputs, outputs, bits, block, packed, scales, kept, offset)
    return stored, plain, scales


def rounded(x, block):
    """Return codes [rows, blocks, block] and scales [rows, blocks] as the kernels round inputs."""
    pieces = x.reshape(len(x), -1, block)
    peak = np.maximum(np.abs(pieces).max(axis=2), np.float32(1e-30))
    per_unit = np.float32(127) / peak
    return np.rint(pieces * per_unit[..., None]), peak.astype(np.float64) / 127


def product(stored, plain, scales, x):
    """The definition: sums of whole numbers a block, scaled."""
    codes, units = rounded(x, stored.block)
    weights = plain.reshape(stored.outputs, -1, stored.block)
    sums = np.einsum("rbk,nbk->rnb", codes, weights.astype(np.float64))
    result = (sums * units[:, None, :] * scales.astype(np.float64)[None]).sum(axis=2)
    return result if stored.bias is None else result + stored.bias


def multiply(kernels, weights, x, out):
    """Write x @ W to `out`; the best of each row comes with it."""
    columns, best = np.zeros(len(x), np.int64), np.zeros(len(x), np.float32)
    call = Head(
        matrix=pointer(weights.matrix),
        rows=len(x),
        forbidden=-1,
        x=address(x),
        logits=address(out),
        columns=address(columns),
        best=address(best),
    )
    kernels.choose(call)
    numbers = ~np.isnan(out).any(axis=1)
    np.testing.assert_array_equal(columns[numbers], out.argmax(axis=1)[numbers])
    np.testing.assert_array_equal(best[numbers], out.max(axis=1)[numbers])
    assert ((columns >= 0) & (columns < out.shape[1])).all()


def check(kernels, stored, plain, scales, x):
    out = np.full((len(x) + 1, stored.outputs), np.nan, np.float32)
    multiply(kernels, HeadWeights(kernels, stored), x, out[:-1])
    wanted = product(stored, plain, scales, x)
    assert np.isnan(out[-1]).all()  # nothing is written behind the last row
    size = np.abs(wanted).max()
    np.testing.assert_allclose(out[:-1], wanted, rtol=0, atol=3e-6 * size)


SHAPES = [
    # inputs, outputs, bits, block, more
    (64, 32, 4, 32, {}),
    (128, 37, 4, 64, {"bias": True}),
    (256, 100, 4, 128, {"zeros": True}),
    (96, 65, 4, 32, {"zeros": True, "bias": True}),  # an odd number of blocks
    (64, 48, 8, 64, {}),
    (128, 1, 8, 32, {"zeros": True}),
    (160, 70, 8, 160, {"by_rows": True, "bias": True}),
    (4864, 16, 8, 4864, {"by_rows": True}),
]


@pytest.mark.parametrize(("inputs", "outputs", "bits", "block", "more"), SHAPES)
def test_products_are_what_they_are_defined_to_be(kernels, inputs, outputs, bits, block, more):
    rng = np.random.default_rng([inputs, outputs, bits])
    stored, plain, scales = draw_matrix(rng, inputs, outputs, bits, block, **more)
    for rows in (1, 2, 3, 7, 12, 13, 26, 64, 65, 130):
        check(kernels, stored, plain, scales, rng.normal(size=(rows, inputs)).astype(np.float32))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_sums_do_not_run_over(kernels, bits, sign):
    """All codes at one end and all inputs at the other: nothing saturates on the way."""
    rng = np.random.default_rng(0)
    stored, plain, scales = draw_matrix(rng, 256, 33, bits, 128)
    for byte in (0, 255):
        stored.codes[...] = byte
        value = (byte if bits == 8 else byte & 15) - (1 << (bits - 1))
        plain[...] = value
        check(kernels, stored, plain, scales, np.full((5, 256), sign, np.float32))


def test_blocks_of_zeros_stay_finite(kernels):
    rng = np.random.default_rng(1)
    stored, plain, scales = draw_matrix(rng, 128, 32, 4, 64)
    x = rng.normal(size=(3, 128)).astype(np.float32)
    x[0] = 0
    x[1, :64] = 0
    check(kernels, stored, plain, scales, x)


def test_a_row_does_not_depend_on_its_neighbours(kernels):
    """A cached row must be equal to one that is computed again among others."""
    rng = np.random.default_rng(2)
    for bits in (4, 8):
        stored, _, _ = draw_matrix(rng, 256, 96, bits, 64)
        weights = HeadWeights(kernels, stored)
        x = rng.normal(size=(40, 256)).astype(np.float32)
        together = np.zeros((40, 96), np.float32)
        multiply(kernels, weights, x, together)
        for row in (0, 17, 39):
            alone = np.zeros((1, 96), np.float32)
            multiply(kernels, weights, x[row : row + 1], alone)
            np.testing.assert_array_equal(alone[0], together[row])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_inputs_that_are_no_numbers_stay_in_their_row(kernels, bad):
    """Under sanitizers this was an overflow: the codes of a NaN are the least of all numbers."""
    rng = np.random.default_rng(4)
    stored, _, _ = draw_matrix(rng, 256, 96, 4, 64, zeros=True)
    weights = HeadWeights(kernels, stored)
    x = rng.normal(size=(40, 256)).astype(np.float32)
    whole, damaged = np.zeros((40, 96), np.float32), np.zeros((40, 96), np.float32)
    multiply(kernels, weights, x, whole)
    x[7] = bad
    x[9, 64:128] = bad
    multiply(kernels, weights, x, damaged)
    others = [row for row in range(40) if row not in (7, 9)]
    np.testing.assert_array_equal(damaged[others], whole[others])


@pytest.mark.parametrize("bits", [4, 8])
def test_scales_at_any_byte_of_a_file(kernels, bits):
    """Under sanitizers this was a misaligned load."""
    rng = np.random.default_rng(5)
    stored, plain, scales = draw_matrix(rng, 256, 96, bits, 64)
    place = np.zeros(stored.scales.nbytes + 1, np.uint8)[1:].view(np.float32)
    odd = place.reshape(stored.scales.shape)
    odd[...] = stored.scales
    assert not odd.flags.aligned
    x = rng.normal(size=(3, 256)).astype(np.float32)
    check(kernels, replace(stored, scales=odd), plain, scales, x)


def test_what_vectors_cannot_walk_is_refused(kernels):
    rng = np.random.default_rng(3)
    for inputs, block in ((20, 20), (24, 12)):
        stored, _, _ = draw_matrix(rng, inputs, 32, 8, block)
        with pytest.raises(NotNativeError, match="multiples of"):
            HeadWeights(kernels, stored)
