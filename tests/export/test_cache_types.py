"""Bundles whose K/V cache is narrower than the computation: they answer, and nearly the same."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ttt_export.cache_types import HEADROOM, LARGEST_CODE, measure_peaks
from ttt_export.export import export_checkpoint
from ttt_export.graph_weights import GraphTensors
from ttt_export.options import ExportOptions
from ttt_export.reference_stream import StreamedReference
from ttt_export.sequences import load_sequences
from ttt_export.source import open_checkpoint
from ttt_ref.config import GenerationConfig
from ttt_ref.errors import ConfigError
from ttt_runtime.backends.ort.runner import OrtRunner
from ttt_runtime.backends.requirements import cache_bytes
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.decode.engine import SpeechEngine


@pytest.fixture(scope="module", params=["fp16", "int8"])
def narrow(request, golden_checkpoints, tmp_path_factory):
    """(name of the type, export in fp32 with a cache of that type)."""
    out = tmp_path_factory.mktemp("cache") / request.param
    options = ExportOptions(cache=request.param, max_kl=0.1, min_agreement=0.9)
    return request.param, export_checkpoint(golden_checkpoints[0], out, options=options)


def test_the_cache_is_stored_narrowly_and_costs_little(narrow, exported, tied):
    name, result = narrow
    bundle, wide = Bundle.open(result.path), Bundle.open(exported(tied).path)
    spec = bundle.graph("decoder").spec
    assert spec.input("past_k.0").dtype == {"fp16": "float16", "int8": "int8"}[name]
    assert spec.input("embeds").dtype == "float32"
    assert cache_bytes(bundle) * {"fp16": 2, "int8": 4}[name] == cache_bytes(wide)
    limit = {"fp16": 1e-4, "int8": 2e-2}[name]
    assert result.report.text.kl_mean < limit
    assert result.report.speech.kl_mean < limit
    assert any(check.name.endswith("rounded graph") for check in result.checks)
    assert not list(result.path.glob(".*"))


def test_a_narrow_cache_answers_from_the_cache_as_without(narrow):
    """Rounding a row does not depend on when it was written, so cut prefixes change nothing."""
    _, result = narrow
    bundle = Bundle.open(result.path)
    layout = bundle.config.layout
    runner = OrtRunner.from_bundle(bundle, threads=1, capacity=128, bucket_rows=1, poison=True)
    ids = [layout.im_start_id, 5, 6, 7, *(layout.code_to_id(n) for n in range(9)), 8, 9, 10]
    whole = runner.forward(ids, 0).copy()
    runner.forward(ids[:4], 0)
    rest = runner.forward(ids[4:], 4)
    np.testing.assert_allclose(rest, whole[4:], rtol=0, atol=1e-4)


def test_a_narrow_cache_speaks(narrow):
    _, result = narrow
    layout = Bundle.open(result.path).config.layout
    config = GenerationConfig(
        max_gen_len=24, diffusion_steps=4, diffusion_gen_length=8, block_length=8
    )
    engine = SpeechEngine.from_bundle(result.path, threads=1, capacity=128)
    assert engine.generate_ids([layout.im_start_id, 3, layout.begin_of_audio_id], config)


def turned(keys: NDArray[np.float32], angle: float) -> NDArray[np.float32]:
    """Turn the halves of keys [.., D] against each other, as the rotary embedding does."""
    first, second = np.split(keys, 2, axis=-1)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)


def test_int8_scales_hold_at_every_position(tied, tmp_path):
    """A channel may grow when it turns at positions that calibration never saw."""
    checkpoint = open_checkpoint(tied)
    config = checkpoint.model
    sequences = load_sequences(checkpoint).calibration[:3]
    reference = StreamedReference(config, checkpoint.layout, checkpoint.weights)
    states, seen = reference.carry(sequences), []
    states.advance(
        0, checkpoint.weights, lambda p, rows: seen.append(rows.numpy()) if p == "k_proj" else None
    )
    keys = np.concatenate(seen).reshape(-1, config.num_key_value_heads, config.head_dim)
    peaks = measure_peaks(reference, config, checkpoint.weights, sequences)
    assert len(peaks) == config.num_hidden_layers
    limit = peaks[0].keys.reshape(config.num_key_value_heads, config.head_dim)
    assert (np.abs(keys) <= limit + 1e-5).all()
    for angle in np.linspace(0, 2 * np.pi, 17):
        assert (np.abs(turned(keys, angle)) <= limit + 1e-5).all()
    out = tmp_path / "out"
    options = ExportOptions(cache="int8", max_kl=1, min_agreement=0)
    export_checkpoint(tied, out, options=options)
    scales = GraphTensors(out / "decoder.onnx").values("layers.0.attn.cache_k.scales")
    assert scales.shape == (config.num_key_value_heads * config.head_dim,)
    # All sequences were looked at here, three of them above: no scale may be smaller.
    assert (scales * LARGEST_CODE >= HEADROOM * limit.reshape(-1) * (1 - 1e-6)).all()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"cache": "int4"}, "expected one of fp16, int8"),
        ({"cache": "int8", "engine": "rtx", "precision": "fp16", "engines": False}, "TensorRT"),
        ({"cache": "fp16", "engine": "rtx", "engines": False}, "float32"),
    ],
)
def test_caches_that_cannot_be(tied, tmp_path, options, part):
    with pytest.raises(ConfigError, match=part) as caught:
        export_checkpoint(tied, tmp_path / "out", options=ExportOptions(**options))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_computation_s_own_type_changes_nothing(tied, tmp_path):
    options = ExportOptions(cache="fp16", precision="fp16", engine="rtx", engines=False)
    recipe = options.resolve_recipe()
    assert options.cache_dtype(recipe) is None
