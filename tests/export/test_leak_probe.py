"""The causal-leak probe passes right graphs and catches graphs that see too little or too much."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from ttt_export.cases import Case, Pass, probe_sequence, sees
from ttt_export.checks import ValidationError
from ttt_export.executors import SlicedExecutor, WholeExecutor, Written, executor_for
from ttt_export.graphs import open_table
from ttt_export.leak_probe import probe_leaks
from ttt_export.validate import check_structure, validate
from ttt_ref.errors import ExportError
from ttt_ref.mask import attend_mask
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.bundle.graph_spec import DECODER, decoder_spec


@pytest.fixture
def written(tied, exported, tmp_path):
    """A copy of an fp32 export that a test may damage."""
    folder = tmp_path / "graphs"
    shutil.copytree(exported(tied).path, folder)
    config = Bundle.open(folder).config
    specs = {name: entry.spec for name, entry in config.graphs.items()}
    table = open_table(folder, config.embeddings)
    return Written(folder, config.model, config.layout, specs, table)


def rewrite(written, change):
    path = written.path(DECODER)
    model = onnx.load(str(path), load_external_data=False)
    change(model.graph)
    path.write_bytes(model.SerializeToString())


def failed(checks):
    return [check.name for check in checks if not check.passed]


def test_sound_graph_passes(written):
    assert failed(probe_leaks(executor_for(written), written.layout)) == []


def causal_mask(graph):
    """What a generic exporter does: cut the mask to the causal half."""
    constant = numpy_helper.from_array(np.array([-1], np.int64), "probe.axis")
    graph.initializer.append(constant)
    make = onnx.helper.make_node
    nodes = [
        make("Shape", ["mask"], ["probe.shape"]),
        make("Unsqueeze", ["positions", "probe.axis"], ["probe.rows"]),  # [1, Q, 1]
        make("Split", ["probe.shape"], ["probe.q", "probe.c"], num_outputs=2),
        make("Squeeze", ["probe.c"], ["probe.count"]),
        make("Range", ["probe.zero", "probe.count", "probe.one"], ["probe.columns"]),
        make("LessOrEqual", ["probe.columns", "probe.rows"], ["probe.causal3"]),
        make("Reshape", ["probe.causal3", "probe.shape"], ["probe.causal"]),
        make("And", ["mask", "probe.causal"], ["probe.mask"]),
    ]
    for value, name in ((0, "probe.zero"), (1, "probe.one")):
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    replace_mask(graph, nodes)


def open_mask(graph):
    """The opposite slip: everybody sees everything that is bound."""
    node = onnx.helper.make_node("Or", ["mask", "probe.not"], ["probe.mask"])
    inverse = onnx.helper.make_node("Not", ["mask"], ["probe.not"])
    replace_mask(graph, [inverse, node])


def replace_mask(graph, nodes):
    for node in graph.node:
        for index, name in enumerate(node.input):
            if node.op_type == "Attention" and name == "mask":
                node.input[index] = "probe.mask"
    kept = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *kept])


def test_causal_graph_is_caught(written):
    rewrite(written, causal_mask)
    assert failed(probe_leaks(executor_for(written), written.layout)) == [
        "leak probe, rows blind to a change they must see"
    ]
    with pytest.raises(ValidationError, match="open span"):
        validate(written)


def test_causal_in_one_layer_only_is_caught(written):
    """Other layers still mix both ways, so only numbers betray it: validation compares them."""

    def change(graph):
        causal_mask(graph)
        for node in graph.node:
            if node.op_type == "Attention" and "layers.0." not in node.name:
                node.input[3] = "mask"

    rewrite(written, change)
    with pytest.raises(ValidationError, match="FAILED"):
        validate(written)


def test_graph_that_sees_the_future_is_caught(written):
    rewrite(written, open_mask)
    assert failed(probe_leaks(executor_for(written), written.layout)) == [
        "leak probe, rows that must not see a change"
    ]


def test_wrong_number_in_a_weight_is_caught(written):
    """A packing slip changes numbers, not structure: bytes swapped in the file after the fact.

    The truth is computed from the file too, so the slip must sit in the graph: a norm's epsilon.
    """

    def change(graph):
        for node in graph.node:
            if node.op_type == "RMSNormalization":
                for attribute in node.attribute:
                    if attribute.name == "epsilon":
                        attribute.f = 0.1

    rewrite(written, change)
    with pytest.raises(ValidationError) as caught:
        validate(written)
    message = str(caught.value)
    assert "\n" not in message
    # Every output is named with its difference and tolerance, failed or not.
    for part in ("prefill with the user's speech", "text_head logits", "sum_exp", "tolerance"):
        assert part in message


def test_wrong_head_is_caught(written):
    name = written.path("speech_head")
    model = onnx.load(str(name), load_external_data=False)
    for proto in model.graph.initializer:
        if proto.name == "first_id":
            proto.CopyFrom(
                numpy_helper.from_array(np.array(written.layout.audio_start - 1), "first_id")
            )
    name.write_bytes(model.SerializeToString())
    with pytest.raises(ValidationError, match=r"speech_head best_id.*FAILED"):
        validate(written)


def test_rule_of_the_probe_equals_the_reference(written):
    ids = probe_sequence(written.layout)
    want = attend_mask(torch.tensor([ids]), written.layout.audio_start)[0].numpy()
    assert np.array_equal(sees(ids, written.layout.is_audio), want)


def test_layer_by_layer_equals_whole(written):
    ids = tuple(probe_sequence(written.layout))
    cases = [Case("x", (Pass(ids[:4], 0), Pass(ids, 4)))]
    whole, sliced = (kind(written).hidden(cases) for kind in (WholeExecutor, SlicedExecutor))
    for a, b in zip(whole[0], sliced[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    assert not list(written.folder.glob(".slice*"))


def test_names_and_shapes_are_checked(written):
    check_structure(written)
    other = replace(written.config, num_key_value_heads=1)
    broken = replace(written, specs={DECODER: decoder_spec(other)})
    with pytest.raises(ExportError, match=r"past_k\.0 differs"):
        check_structure(broken)
