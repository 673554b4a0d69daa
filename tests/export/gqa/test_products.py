"""The two kinds of products that the GQA decoder is made of, run alone."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from ttt_export.gqa.products import (
    BlockProducts,
    RowProducts,
    emit_middles,
    packed_blocks,
    packed_zeros,
)
from ttt_export.linear import Matrix
from ttt_export.writer import GraphWriter
from ttt_quant.algorithms import quantize
from ttt_quant.scheme import Scheme
from ttt_runtime.backends.ort.integer_products import OPTION, needs_unsigned_weights
from ttt_runtime.bundle.graph_spec import GraphSpec, TensorSpec

WIDTH, OUTPUTS, ROWS = 96, 40, 5


class OneMatrix:
    """Stands for a written graph that stores one matrix."""

    def __init__(self, stored):
        self._stored = stored

    def matrix(self, name):
        return self._stored


def product(tmp_path, products, x, bias=None, factors=None):
    """Return x [Q, K] @ W (+ bias) as onnxruntime computes it."""
    spec = GraphSpec(
        "product",
        (TensorSpec("x", "float32", (1, "Q", WIDTH)), TensorSpec("positions", "int64", (1, "Q"))),
        (TensorSpec("y", "float32", (1, "Q", OUTPUTS)),),
    )
    with GraphWriter(tmp_path / "product.onnx") as writer:
        emit_middles(writer)
        writer.node("Identity", [products.emit(writer, "x", "w", bias, factors)], "y")
        writer.finish(spec)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if needs_unsigned_weights(tmp_path / "product.onnx"):
        options.add_session_config_entry(*OPTION)
    session = onnxruntime.InferenceSession(str(tmp_path / "product.onnx"), options)
    feeds = {"x": x[None], "positions": np.zeros((1, len(x)), np.int64)}
    return session.run(None, feeds)[0][0]


@pytest.fixture
def draw():
    return np.random.default_rng(3)


@pytest.mark.parametrize("kind", ["int4", "int8"])
@pytest.mark.parametrize("algorithm", ["rtn", "hqq"])  # without and with zero points
@pytest.mark.parametrize("with_bias", [False, True])
def test_block_products_hold_the_stored_matrix(tmp_path, draw, kind, algorithm, with_bias):
    """Rows of the unit matrix, scaled to 127, are rounded to themselves: they read W out."""
    weight = draw.standard_normal((WIDTH, OUTPUTS)).astype(np.float32)
    stored = quantize(weight, Scheme(kind, block=32, algorithm=algorithm))
    bias = draw.standard_normal(OUTPUTS).astype(np.float32) if with_bias else None
    eye = np.eye(WIDTH, dtype=np.float32) * 127
    got = product(tmp_path, BlockProducts(OneMatrix(stored)), eye, bias)
    want = stored.dequantize() * 127 + (0 if bias is None else bias)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


def test_float_matrices_stay_what_they_are(tmp_path, draw):
    for dtype in (np.float32, np.float16):
        weight = draw.standard_normal((WIDTH, OUTPUTS)).astype(dtype)
        x = draw.standard_normal((ROWS, WIDTH)).astype(np.float32)
        got = product(tmp_path, BlockProducts(OneMatrix(weight)), x)
        np.testing.assert_allclose(got, x @ weight.astype(np.float32), rtol=1e-4, atol=1e-4)


def test_factors_multiply_columns(tmp_path, draw):
    weight = draw.standard_normal((WIDTH, OUTPUTS)).astype(np.float32)
    stored = quantize(weight, Scheme("int4", block=32))
    factors = draw.uniform(0.1, 3, OUTPUTS).astype(np.float32)
    x = draw.standard_normal((ROWS, WIDTH)).astype(np.float32)
    for products in (BlockProducts(OneMatrix(stored)), BlockProducts(OneMatrix(weight))):
        plain = product(tmp_path, products, x)
        scaled = product(tmp_path, products, x, factors=factors)
        np.testing.assert_allclose(scaled, plain * factors, rtol=1e-4, atol=1e-4)
    plain = product(tmp_path, row_products(weight), x)
    scaled = product(tmp_path, row_products(weight), x, factors=factors)
    np.testing.assert_allclose(scaled, plain * factors, rtol=1e-4, atol=1e-4)


def test_odd_numbers_of_zero_points_are_padded():
    zeros = np.array([[-8], [7], [0]], np.int8)
    assert packed_zeros(zeros, 4).tolist() == [[0xF0, 0x08]]
    assert packed_zeros(np.array([[-128], [127]], np.int8), 8).tolist() == [[0, 255]]


def test_codes_are_packed_channel_by_channel():
    codes = np.array([[-8, 1], [7, 2]], np.int8)
    assert packed_blocks(codes, 4, 2).tolist() == [[[0xF0]], [[0xA9]]]
    assert packed_blocks(codes, 8, 2).tolist() == [[[120, 135]], [[129, 130]]]


def row_products(weight):
    matrix = Matrix("w", WIDTH, OUTPUTS, lambda start, stop: weight[:, start:stop].copy())
    return RowProducts({"w": matrix})


def test_row_products_are_near_and_take_a_bias(tmp_path, draw):
    weight = draw.standard_normal((WIDTH, OUTPUTS)).astype(np.float32)
    bias = draw.standard_normal(OUTPUTS).astype(np.float32)
    x = draw.standard_normal((ROWS, WIDTH)).astype(np.float32) * [[1], [100], [1e-3], [0], [7]]
    x = x.astype(np.float32)
    got = product(tmp_path, row_products(weight), x, bias) - bias
    want = x @ weight
    error = np.linalg.norm(got - want, axis=1)
    size = np.maximum(np.linalg.norm(want, axis=1), 1e-9)
    assert (error / size)[[0, 1, 2, 4]].max() < 0.02
    assert np.abs(got[3]).max() < 1e-6  # a row of zeros, no NaN


def test_a_row_does_not_depend_on_its_neighbours(tmp_path, draw):
    """A tensor-wide scale would make a cached row differ from the same row computed again."""
    weight = draw.standard_normal((WIDTH, OUTPUTS)).astype(np.float32)
    x = draw.standard_normal((ROWS, WIDTH)).astype(np.float32)
    together = product(tmp_path, row_products(weight), x)
    x[1:] *= 50
    beside_loud_ones = product(tmp_path, row_products(weight), x)
    np.testing.assert_array_equal(together[0], beside_loud_ones[0])
    np.testing.assert_array_equal(together[:1], product(tmp_path, row_products(weight), x[:1]))
