"""The GQA decoder in whole exports: what it is, what it says, and how it is checked."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest

from tests.export.test_same_ids import CONFIGS, random_prompt
from ttt_export.checks import ValidationError
from ttt_export.export import export_checkpoint
from ttt_export.gqa import rewrite
from ttt_export.options import ExportOptions
from ttt_ref.errors import BundleError, ConfigError
from ttt_runtime.backends.ort.runner import OrtRunner
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.bundle.gqa_spec import BLOCK_DECODER, is_gqa
from ttt_runtime.decode.engine import SpeechEngine

OPEN_GATES = {"max_kl": 10.0, "min_agreement": 0.0}


@pytest.fixture(scope="module")
def bundles(golden_checkpoints, tmp_path_factory):
    """Bundles of one checkpoint: int8, and int4 with a second body."""
    folder = tmp_path_factory.mktemp("gqa")
    made = {}
    for precision, body in (("int8", None), ("int4", "int8")):
        options = ExportOptions(precision=precision, block_body=body, **OPEN_GATES)
        made[precision] = export_checkpoint(
            golden_checkpoints[0], folder / precision, options=options
        )
    return made


def answers(engine, layout, count):
    """Return the ids that an engine answers to random prompts."""
    all_ids = []
    for number in range(count):
        draw = np.random.default_rng([11, number])
        prompt, config = random_prompt(layout, draw), CONFIGS[number % len(CONFIGS)]
        engine.reset()
        all_ids.append(engine.generate_ids(prompt, config))
    return all_ids


def with_block_decoder(bundle, entry):
    """Return the bundle with this second decoder, or with none."""
    graphs = {n: g for n, g in bundle.config.graphs.items() if n != BLOCK_DECODER}
    if entry is not None:
        graphs[BLOCK_DECODER] = entry
    return Bundle(bundle.path, replace(bundle.config, graphs=graphs))


def test_one_node_does_all_of_a_layers_attention(bundles):
    path = bundles["int8"].path
    bundle = Bundle.open(path)
    model = onnx.load(str(path / "decoder.onnx"), load_external_data=False)
    nodes = [node.op_type for node in model.graph.node]
    layers = bundle.config.model.num_hidden_layers
    assert nodes.count("GroupQueryAttention") == layers
    assert nodes.count("MatMulNBits") == 4 * layers
    assert is_gqa(bundle.graph("decoder").spec)
    assert [t.name for t in bundle.graph("text_head").spec.outputs] == ["logits"]
    assert not list(path.glob(".*"))


def test_cached_and_recomputed_ids_are_equal(bundles):
    """`exact` keeps the cache, `reference` recomputes all: one body, so the same ids."""
    path = bundles["int8"].path
    layout = Bundle.open(path).config.layout
    exact, whole = (
        SpeechEngine.from_bundle(path, exactness=e, threads=1, capacity=512)
        for e in ("exact", "reference")
    )
    assert answers(exact, layout, 30) == answers(whole, layout, 30)


def test_the_second_body_runs_all_forwards_of_several_rows(bundles):
    bundle = Bundle.open(bundles["int4"].path)
    assert bundle.graph(BLOCK_DECODER).spec.attributes["weights"] == "int8"
    both = OrtRunner.from_bundle(bundle, threads=1, capacity=64)
    graphs = {n: g for n, g in bundle.config.graphs.items() if n != BLOCK_DECODER}
    alone = Bundle(
        bundle.path, bundle.config.__class__(**{**vars(bundle.config), "graphs": graphs})
    )
    one = OrtRunner.from_bundle(alone, threads=1, capacity=64)
    ids = [3, 1, 4, 1, 5]
    many = [runner.forward(ids, 0).copy() for runner in (both, one)]
    assert not np.array_equal(*many)  # different weights, hence different numbers ...
    assert np.abs(many[0] - many[1]).max() < 0.5 * np.abs(many[0]).max()  # ... of one model
    # One row is the first body's, over a cache that the second has written.
    first = [runner.forward([7], 0).copy() for runner in (both, one)]
    np.testing.assert_array_equal(*first)
    both.forward(ids, 0)
    assert np.isfinite(both.forward([9], 5)).all()


def test_the_second_body_is_nearer_to_the_checkpoint(bundles):
    """It is stated in the report; 8 bit a row lose less than 4 bit a block."""
    report = bundles["int4"].report
    assert report.block_body is not None
    assert report.block_body.speech.kl_mean < report.speech.kl_mean
    assert report.block_body.speech.agreement >= report.speech.agreement
    stored = json.loads((bundles["int4"].path / "export_report.json").read_text())
    assert stored["block_body"]["speech"]["agreement"] == report.block_body.speech.agreement
    assert any(line.startswith("decoder for blocks") for line in report.table().splitlines())


def test_every_form_was_checked(bundles):
    names = [check.name for check in bundles["int4"].checks]
    for form in ("decoder, ", "GQA decoder, ", "block decoder, ", "logits-only text_head"):
        assert any(name.startswith(form) for name in names), form
    assert sum("leak probe" in name for name in names) == 6


def test_a_slip_in_the_rewriting_is_not_published(golden_checkpoints, tmp_path, monkeypatch):
    packed = rewrite.BlockProducts._blocks

    def swapped(self, writer, x, name, stored, bias):
        if name.endswith("0.mlp.down"):
            stored = replace(stored, codes=np.roll(stored.codes, 1, axis=0))
        return packed(self, writer, x, name, stored, bias)

    monkeypatch.setattr(rewrite.BlockProducts, "_blocks", swapped)
    options = ExportOptions(precision="int8", **OPEN_GATES)
    with pytest.raises(ValidationError, match="GQA decoder"):
        export_checkpoint(golden_checkpoints[0], tmp_path / "out", options=options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong",
    [
        {"precision": "fp32", "block_body": "int8"},
        {"precision": "int4", "block_body": "int4"},
        {"precision": "int4", "engine": "cuda", "block_body": "int8"},
        {"precision": "int4", "block_body": "int8", "cache": "fp16"},
    ],
)
def test_a_second_body_that_cannot_be_is_refused(golden_checkpoints, tmp_path, wrong):
    with pytest.raises(ConfigError, match="--block-body"):
        export_checkpoint(golden_checkpoints[0], tmp_path / "out", options=ExportOptions(**wrong))


def test_bodies_that_cannot_share_a_cache_are_refused(bundles, exported, golden_checkpoints):
    bundle = Bundle.open(bundles["int8"].path)
    spec = bundle.graph("decoder").spec
    other = Bundle.open(exported(golden_checkpoints[0]).path)
    twice = with_block_decoder(other, other.config.graphs["decoder"])
    assert OrtRunner.from_bundle(twice, threads=1, capacity=64).capacity == 64  # equal: allowed
    runner = OrtRunner.from_bundle(bundle, threads=1)
    assert runner.capacity == spec.attributes["rotary_rows"]
    with pytest.raises(ConfigError, match="capacity"):
        OrtRunner.from_bundle(bundle, threads=1, capacity=10**6)
    mixed = with_block_decoder(bundle, bundle.config.graphs["text_head"])
    with pytest.raises(BundleError, match="share a cache"):
        OrtRunner.from_bundle(mixed, threads=1)
