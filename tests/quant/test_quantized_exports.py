"""Whole exports under recipes: valid graphs, sensible order of quality, the promised kernels."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from ttt_export.export import export_checkpoint
from ttt_export.options import ExportOptions
from ttt_quant.recipe import default_recipe
from ttt_ref.config import GenerationConfig
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.decode.engine import SpeechEngine

RECIPE = """
name = "test {algorithm}"
compute = "float32"
embeddings = "int8"
[gates]
max_kl = 10
min_agreement = 0
[session]
"session.qdq_matmulnbits_accuracy_level" = "4"
[[rule]]
match = "*_head"
kind = "int8"
[[rule]]
match = "*"
kind = "int4"
block = 32
algorithm = "{algorithm}"
"""


@pytest.fixture(scope="module")
def reports(golden_checkpoints, tmp_path_factory):
    """Quality reports of one checkpoint under every algorithm."""
    folder = tmp_path_factory.mktemp("recipes")
    made = {}
    for algorithm in ("rtn", "hqq", "gptq", "awq"):
        recipe = folder / f"{algorithm}.toml"
        recipe.write_text(RECIPE.format(algorithm=algorithm))
        options = ExportOptions(precision="int4", recipe=recipe)
        result = export_checkpoint(golden_checkpoints[-1], folder / algorithm, options=options)
        made[algorithm] = result
    return made


def test_calibrated_algorithms_lose_less(reports):
    """Validation inside the export already held each graph to the weights that it stores.

    Random weights have no loud channels, which is what AWQ lives on: there it may only not harm.
    """
    for algorithm, factor in (("gptq", 1.0), ("awq", 1.5)):
        for kind in ("text", "speech"):
            mine = getattr(reports[algorithm].report, kind).kl_mean
            plain = getattr(reports["rtn"].report, kind).kl_mean
            assert mine < factor * plain, (algorithm, kind)


def test_report_names_what_was_done(reports):
    for algorithm, result in reports.items():
        layers = Bundle.open(result.path).config.model.num_hidden_layers
        assert result.report.schemes[f"int4 b32 {algorithm}"] == 4 * layers
        assert sum(n for name, n in result.report.schemes.items() if "int8" in name) == 2
        assert result.report.recipe == f"test {algorithm}"


def test_four_bit_bundle_speaks(reports):
    path = reports["gptq"].path
    layout = Bundle.open(path).config.layout
    config = GenerationConfig(
        max_gen_len=20, diffusion_steps=4, diffusion_gen_length=8, block_length=8
    )
    engine = SpeechEngine.from_bundle(path, threads=1, capacity=128)
    assert engine.generate_ids([layout.im_start_id, 3, layout.begin_of_audio_id], config)


def optimized_ops(path, tmp_path, level="4"):
    """Return the operators that onnxruntime really runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", level)
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    model = onnx.load(str(tmp_path / "optimized.onnx"), load_external_data=False)
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("algorithm", ["rtn", "hqq"])  # without and with zero points
def test_onnxruntime_fuses_every_product(reports, tmp_path, algorithm):
    folder = reports[algorithm].path
    layers = Bundle.open(folder).config.model.num_hidden_layers
    ops = optimized_ops(folder / "decoder.onnx", tmp_path)
    assert ops["MatMulNBits"] == 4 * layers
    assert ops["DequantizeLinear"] == ops["MatMul"] == 0
    head = optimized_ops(folder / "speech_head.onnx", tmp_path)
    assert head["MatMulNBits"] == 1


def test_weights_are_really_in_four_bits(reports):
    result = reports["rtn"]
    config = Bundle.open(result.path).config.model
    hidden, wide = config.hidden_size, config.intermediate_size
    kv = config.num_key_value_heads * config.head_dim
    weights = hidden * (2 * hidden + 2 * kv) + 3 * hidden * wide
    expected = config.num_hidden_layers * weights * (0.5 + 4 / 32)
    expected += 2 * config.max_position_embeddings * (config.head_dim // 2) * 4  # rotary tables
    size = (result.path / "decoder.onnx.data").stat().st_size
    assert expected <= size <= expected + 4096 * (2 * 4 * config.num_hidden_layers + 2)


def test_int8_table_rows_are_close(reports, golden_checkpoints):
    from ttt_export.source import open_checkpoint
    from ttt_runtime.bundle.embeddings import EmbeddingTable

    bundle = Bundle.open(reports["rtn"].path)
    source = open_checkpoint(golden_checkpoints[-1]).weights
    want = source.rows("model.embed_tokens.weight", 0, 50)
    got = np.empty_like(want)
    EmbeddingTable.from_bundle(bundle).gather(np.arange(50), got)
    step = np.abs(want).max(axis=1, keepdims=True) / 127
    assert (np.abs(got - want) <= step / 2 + 1e-7).all()


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_default_recipes_reach_their_gates(golden_checkpoints, tmp_path, precision):
    for checkpoint in golden_checkpoints:
        out = tmp_path / checkpoint.name
        result = export_checkpoint(checkpoint, out, precision)
        assert result.report.failures() == []
        gates = default_recipe(precision, "cpu").gates
        assert json.loads((out / "export_report.json").read_text())["gates"] == {
            "max_kl": gates.max_kl,
            "min_agreement": gates.min_agreement,
        }


@pytest.mark.parametrize(
    ("precision", "engine"), [("fp16", "cuda"), ("bf16", "cuda"), ("int4", "cuda")]
)
def test_gpu_graphs_are_checked_without_a_gpu(golden_checkpoints, tmp_path, precision, engine):
    options = ExportOptions(precision=precision, engine=engine, max_kl=1, min_agreement=0.5)
    result = export_checkpoint(golden_checkpoints[0], tmp_path / "out", options=options)
    spec = Bundle.open(result.path).graph("decoder").spec
    assert spec.input("embeds").dtype == ("bfloat16" if precision == "bf16" else "float16")
    assert spec.input("past_k.0").shape[1] == "C"
    assert not list(result.path.rglob(".*"))
    assert len(result.checks) > 20


def test_fixed_cache_of_four_axes(golden_checkpoints, tmp_path):
    options = ExportOptions(engine="rtx", cache_rows=192, engines=False)
    result = export_checkpoint(golden_checkpoints[0], tmp_path / "out", options=options)
    spec = Bundle.open(result.path).graph("decoder").spec
    assert spec.input("past_v.1").shape == (1, 2, 192, 16)
    assert spec.input("mask").shape == ("Q", 192)
