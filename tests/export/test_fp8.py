"""fp8: both sides of every product inside the layers in float8, scales from calibration."""

from __future__ import annotations

import importlib.util

import ml_dtypes
import numpy as np
import onnx
import pytest

from tests.export.tensorrt.graphs import MODEL, RandomWeights
from ttt_export.calibrate import PlainQuantizer
from ttt_export.decoder_graph import DecoderEmitter
from ttt_export.export import export_checkpoint
from ttt_export.graph_weights import GraphTensors
from ttt_export.options import ExportOptions
from ttt_export.source import open_checkpoint
from ttt_export.tensorrt.builder import build_engine
from ttt_export.tensorrt.profiles import Profile
from ttt_export.tensorrt.progress import Silent
from ttt_export.tensorrt.request import BuildOptions, build_request
from ttt_export.weights import tensor
from ttt_export.writer import GraphWriter
from ttt_quant.recipe import default_recipe
from ttt_quant.scheme import FP8_LARGEST, Scheme
from ttt_ref.errors import ConfigError
from ttt_runtime.backends.tensorrt.api import load_backend
from ttt_runtime.backends.tensorrt.stamp import AHEAD_OF_TIME
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.bundle.graph_spec import decoder_spec

OPEN = {"max_kl": 1.0, "min_agreement": 0.5}


@pytest.fixture(scope="module")
def result(golden_checkpoints, tmp_path_factory):
    """An export in fp8 for rtx; engines are built in a test of their own."""
    out = tmp_path_factory.mktemp("fp8") / "bundle"
    options = ExportOptions(precision="fp8", engine="rtx", engines=False, cache_rows=192, **OPEN)
    return export_checkpoint(golden_checkpoints[0], out, options=options)


def test_every_product_of_the_layers_rounds_both_sides(result):
    layers = Bundle.open(result.path).config.model.num_hidden_layers
    model = onnx.load(str(result.path / "decoder.onnx"), load_external_data=False)
    makers = {name: node for node in model.graph.node for name in node.output}
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    assert len(products) == 4 * layers
    for product in products:
        x, w = (makers[name] for name in product.input)
        assert x.op_type == w.op_type == "DequantizeLinear"
        assert makers[x.input[0]].op_type == "QuantizeLinear"
    assert result.report.schemes == {"fp8": 4 * layers, "float16": 2}
    # Scales come from what was seen: no two inputs are alike.
    tensors = GraphTensors(result.path / "decoder.onnx")
    scales = {float(tensors.values(f"layers.{i}.mlp.down.input_scale")) for i in range(layers)}
    assert len(scales) == layers


def test_weights_are_the_checkpoints_in_float8(result, golden_checkpoints):
    source = open_checkpoint(golden_checkpoints[0]).weights
    want = tensor(source, "model.layers.0.mlp.down_proj.weight").T  # [K, N]
    tensors = GraphTensors(result.path / "decoder.onnx")
    assert tensors.values("layers.0.mlp.down.codes").dtype == ml_dtypes.float8_e4m3fn
    got = tensors.matrix("layers.0.mlp.down")
    assert isinstance(got, np.ndarray)
    # Three bits of mantissa: half a step is 1/16 of a value, below the smallest normal one less.
    smallest = np.abs(want).max(axis=0) / FP8_LARGEST * 2.0**-6
    assert (np.abs(got - want) <= np.maximum(np.abs(want) / 15, smallest)).all()


def test_numbers_are_checked_on_a_twin_and_quality_on_the_real_graph(result):
    names = [check.name for check in result.checks]
    assert "decoder, open span" in names
    assert names[-1].endswith("rounded graph")
    assert 0 < result.report.text.kl_mean < 0.2
    assert not list(result.path.glob(".*"))


@pytest.mark.parametrize("engine", ["cpu", "cuda"])
def test_engines_without_fp8_products(engine, tied, tmp_path):
    with pytest.raises(ConfigError, match=f"precision fp8 with engine {engine}"):
        default_recipe("fp8", engine)
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'name = "mine"\ncompute = "float16"\nembeddings = "float16"\n'
        '[gates]\nmax_kl = 1\nmin_agreement = 0\n[[rule]]\nmatch = "*"\nkind = "fp8"\n'
    )
    options = ExportOptions(precision="fp16", engine=engine, recipe=recipe)
    with pytest.raises(ConfigError, match="fp8 products are for tensorrt and rtx"):
        options.resolve_recipe()


def test_zero_points_are_refused_for_tensorrt():
    """TensorRT's parser takes none; said before the long work, not by the builder after it."""
    from pathlib import Path

    options = ExportOptions(precision="int4", engine="rtx", recipe=Path("int4-gptq-cpu"))
    with pytest.raises(ConfigError, match="zero points"):
        options.resolve_recipe()


@pytest.mark.tensorrt
@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx-cu13 not installed"
)
def test_tensorrt_builds_an_fp8_engine(tmp_path):
    """With rounded inputs as they ship; by size: a byte a weight where float16 takes two."""

    class Rounding(PlainQuantizer):
        def input_peak(self, name: str) -> float | None:
            return 4.0

    wide = MODEL.__class__.from_dict(
        {**MODEL.to_dict(), "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 1}
    )
    sizes = {}
    backend = load_backend("rtx")
    for kind in ("float16", "fp8"):
        folder = tmp_path / kind
        folder.mkdir()
        spec = decoder_spec(wide, 128, "float16", "heads")
        with GraphWriter(folder / "decoder.onnx") as writer:
            choose = lambda name, width, kind=kind: Scheme(kind)  # noqa: E731
            emitter = DecoderEmitter(writer, wide, spec, choose, Rounding())
            emitter.emit(RandomWeights(wide), progress=lambda line: None)
        graph = folder / "decoder.onnx"
        profiles = (Profile("text", {"Q": (1, 1, 1)}),)
        request = build_request(backend, spec, graph, profiles, BuildOptions(), AHEAD_OF_TIME)
        sizes[kind] = memoryview(build_engine(backend, request, Silent()).engine).nbytes
    weights = 512 * (512 + 2 * 256) + 512 * 512 + 3 * 512 * 2048
    assert sizes["float16"] - sizes["fp8"] == pytest.approx(weights, rel=0.15)
