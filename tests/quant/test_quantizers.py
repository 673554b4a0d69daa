"""The quantizers: exact where they must be, better than plain rounding where they claim it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttt_quant.activations import Activations
from ttt_quant.algorithms import QUANTIZERS, quantize
from ttt_quant.awq import input_scale, output_error
from ttt_quant.scheme import Scheme, code_range, pack_nibbles, unpack_nibbles
from ttt_ref.errors import ConfigError

WIDTH, OUTPUTS = 256, 96


def outlier_weight(seed=0):
    """Weights as they are: mostly small, a few large."""
    draw = np.random.default_rng(seed)
    return (draw.standard_t(4, (WIDTH, OUTPUTS)) * 0.03).astype(np.float32)


def seen_rows(seed=1, rows=600):
    """Inputs as they are: correlated, and a few channels far louder than the others."""
    draw = np.random.default_rng(seed)
    mix = draw.normal(0, 1, (WIDTH, WIDTH)) * 0.15 + np.eye(WIDTH)
    loud = np.where(draw.random(WIDTH) < 0.04, 20.0, 1.0)
    return (draw.normal(0, 1, (rows, WIDTH)) @ mix * loud).astype(np.float32)


def seen():
    record = Activations(WIDTH)
    for part in np.array_split(seen_rows(), 3):
        record.add(part)
    return record


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("algorithm", sorted(QUANTIZERS))
@pytest.mark.parametrize("symmetric", [True, False])
def test_codes_are_in_range_and_close(kind, algorithm, symmetric):
    scheme = Scheme(kind, 128, algorithm, symmetric).fitted(WIDTH)
    weight = outlier_weight()
    quantized = quantize(weight, scheme, seen())
    low, high = code_range(scheme.bits)
    assert quantized.codes.min() >= low
    assert quantized.codes.max() <= high
    assert quantized.scales.shape == (WIDTH // scheme.block, OUTPUTS)
    assert np.isfinite(quantized.scales).all()
    error = np.abs(quantized.dequantize() - weight).max()
    # GPTQ moves weights on purpose; still no weight may end far from where it was.
    assert error <= np.abs(weight).max() * (0.05 if scheme.bits == 8 else 0.5)


@pytest.mark.parametrize("algorithm", ["rtn", "awq", "gptq"])
def test_representable_weights_stay_as_they_are(algorithm):
    draw = np.random.default_rng(0)
    codes = draw.integers(-7, 8, (WIDTH, OUTPUTS))
    codes[::128] = 7  # every block uses its whole range
    scales = np.repeat(draw.uniform(0.01, 0.1, (WIDTH // 128, OUTPUTS)), 128, axis=0)
    weight = (codes * scales).astype(np.float32)
    quantized = quantize(weight, Scheme("int4", 128, algorithm), seen())
    np.testing.assert_allclose(quantized.dequantize(), weight, rtol=1e-5, atol=1e-7)


def test_zero_block():
    weight = outlier_weight()
    weight[:128, 3] = 0
    for algorithm in sorted(QUANTIZERS):
        quantized = quantize(weight, Scheme("int4", 128, algorithm), seen())
        assert np.isfinite(quantized.dequantize()).all()


def error_of(algorithm, weight, record, rows, symmetric=True):
    quantized = quantize(weight, Scheme("int4", 128, algorithm, symmetric), record)
    return float(np.square(rows @ (quantized.dequantize() - weight)).mean())


def test_gptq_beats_rounding_on_what_it_saw_and_on_what_it_did_not():
    weight, record = outlier_weight(), seen()
    for rows in (seen_rows(), seen_rows()[::2] * 1.3):
        assert error_of("gptq", weight, record, rows) < 0.7 * error_of("rtn", weight, record, rows)


def test_awq_scaling_beats_rounding():
    weight, record, rows = outlier_weight(), seen(), seen_rows()
    scheme = Scheme("int4", 128, "awq")
    scale = input_scale(weight, scheme, record)
    assert scale.shape == (WIDTH,)
    scaled = quantize(weight * scale[:, None], scheme, record).dequantize() / scale[:, None]
    plain = error_of("rtn", weight, record, rows)
    assert float(np.square(rows @ (scaled - weight)).mean()) < 0.8 * plain


def test_clipping_alone_is_never_worse_by_its_own_measure():
    weight = outlier_weight()
    by_clip = quantize(weight, Scheme("int4", 128, "awq")).dequantize()
    by_rounding = quantize(weight, Scheme("int4", 128, "rtn")).dequantize()
    assert np.square(by_clip - weight).sum() < np.square(by_rounding - weight).sum()


def test_hqq_serves_the_typical_weight():
    """Outliers are given up for the many: the mean error falls though the largest may rise."""
    weight = outlier_weight()
    weight[:, ::2] += 0.05  # blocks that are not centred on zero: what zero points are for
    hqq = quantize(weight, Scheme("int4", 128, "hqq")).dequantize()
    for symmetric in (True, False):
        rtn = quantize(weight, Scheme("int4", 128, "rtn", symmetric)).dequantize()
        assert np.abs(hqq - weight).mean() < 0.95 * np.abs(rtn - weight).mean()


def test_output_error_is_the_error_of_outputs():
    weight, record, rows = outlier_weight(), seen(), seen_rows()
    rounded = quantize(weight, Scheme("int4", 128)).dequantize()
    want = float(np.square(rows @ (weight - rounded)).sum()) / len(rows)
    assert output_error(weight, rounded, record.moments) == pytest.approx(want, rel=1e-3)


def test_gptq_in_column_chunks_equals_whole():
    """The exporter hands over a matrix in column chunks; columns must not know each other."""
    weight, record = outlier_weight(), seen()
    scheme = Scheme("int4", 128, "gptq")
    whole = quantize(weight, scheme, record).codes
    parts = [quantize(weight[:, s : s + 32], scheme, record).codes for s in range(0, OUTPUTS, 32)]
    assert (np.concatenate(parts, axis=1) == whole).mean() > 0.999  # sums may round otherwise


def test_gptq_without_activations():
    with pytest.raises(ConfigError, match="calibrate"):
        quantize(outlier_weight(), Scheme("int4", 128, "gptq"))


def test_dead_channels_do_not_break_gptq():
    rows = seen_rows()
    rows[:, 5] = 0
    record = Activations(WIDTH)
    record.add(rows)
    quantized = quantize(outlier_weight(), Scheme("int4", 128, "gptq"), record)
    assert np.isfinite(quantized.dequantize()).all()


def test_rescaled_activations_are_those_of_rescaled_rows():
    factor = np.linspace(0.5, 2, WIDTH).astype(np.float32)
    one, other = seen(), Activations(WIDTH)
    one.rescale(factor)
    other.add(seen_rows() * factor)
    np.testing.assert_allclose(one.moments, other.moments, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(one.mean_magnitude, other.mean_magnitude, rtol=1e-4)


@given(st.lists(st.integers(-8, 7), min_size=1, max_size=40))
@settings(max_examples=50, deadline=None)
def test_nibbles_come_back(codes):
    array = np.array(codes, dtype=np.int8)
    packed = pack_nibbles(array)
    assert len(packed) == (len(codes) + 1) // 2
    assert unpack_nibbles(packed, len(codes)).tolist() == codes


@pytest.mark.parametrize(
    ("width", "asked", "got"),
    [(256, 128, 128), (160, 128, 32), (64, 128, 64), (96, 32, 32), (48, 128, 16)],
)
def test_block_fits_the_width(width, asked, got):
    assert Scheme("int4", asked).fitted(width).block == got


def test_width_that_no_block_divides_stays_float():
    assert Scheme("int4").fitted(24).kind == "float16"


@pytest.mark.parametrize(
    "values", [{"kind": "int3"}, {"kind": "int4", "block": 100}, {"algorithm": "magic"}]
)
def test_schemes_that_cannot_be(values):
    with pytest.raises(ConfigError):
        Scheme(**values)
