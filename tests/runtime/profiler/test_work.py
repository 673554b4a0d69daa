"""The work of a phase: counted from real graphs, equal to what the model's shape says."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.runtime.profiler.conftest import SHIPPED
from tests.runtime.versions import needs_standard_onnxruntime
from ttt_runtime.backends.ort.node_profile import NodeRun, Tensor
from ttt_runtime.backends.ort.session import GraphSession, SessionSettings
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.bundle.graph_spec import GraphSpec, TensorSpec
from ttt_runtime.dialogue.timeline import Slice
from ttt_runtime.profiler.limits import Limits, product_rate, read_rate
from ttt_runtime.profiler.product_graph import product_graph
from ttt_runtime.profiler.work import Work, against_limits, operations, read_bytes, work_of


def node(name: str, inputs: list[list[int]], output: list[int], parameters: int = 0) -> NodeRun:
    shapes = tuple(Tensor("float", tuple(shape)) for shape in inputs)
    return NodeRun(name, 5, shapes, (Tensor("float", tuple(output)),), parameters)


@pytest.mark.parametrize(
    ("run", "expected_operations", "expected_bytes"),
    [
        (node("MatMul", [[1, 3, 8], [8, 5]], [1, 3, 5], 160), 2 * 3 * 8 * 5, 160),
        (node("MatMul", [[2, 3, 8], [2, 8, 5]], [2, 3, 5]), 2 * 2 * 3 * 8 * 5, 2 * 8 * 5 * 4),
        (node("MatMulNBits", [[1, 3, 64], [5, 2, 16]], [1, 3, 5], 320), 2 * 3 * 64 * 5, 320),
        (node("Conv", [[1, 4, 9], [6, 4, 3]], [1, 6, 7], 288), 2 * 6 * 7 * 4 * 3, 288),
        (node("Conv", [[1, 4, 9], [4, 1, 3]], [1, 4, 7], 48), 2 * 4 * 7 * 3, 48),  # depthwise
        (node("ConvTranspose", [[1, 4, 9], [4, 6, 3]], [1, 6, 11], 288), 2 * 4 * 9 * 6 * 3, 288),
        (
            node("Attention", [[1, 2, 16], [1, 10, 8], [1, 10, 8]], [1, 2, 16]),
            4 * 2 * 16 * 10,  # two query heads a key head: the queries count
            2 * 10 * 8 * 4,
        ),
        (  # queries with keys and values, cache of 64 rows of which 10 count, the mask
            node(
                "GroupQueryAttention",
                [[1, 2, 32], [1, 2, 64, 4], [1, 2, 64, 4], [1], [], [1, 1, 2, 10]],
                [1, 2, 16],
                parameters=999,  # tables of rotary angles, of which a few rows are read
            ),
            4 * 2 * 16 * 10,
            2 * 10 * 8 * 4,
        ),
        (node("Add", [[1, 3, 8], [8]], [1, 3, 8], 32), 0, 0),
    ],
)
def test_operations_and_bytes_of_a_node(
    run: NodeRun, expected_operations: int, expected_bytes: int
) -> None:
    assert (operations(run), read_bytes(run)) == (expected_operations, expected_bytes)


def test_nodes_are_counted_with_the_slice_that_they_began_in() -> None:
    slices = [Slice("text", 0, 10), Slice("text", 20, 30), Slice("block", 30, 40)]
    shape = (((1, 2), (2, 3)), (1, 3))

    def at(begin: int, name: str = "MatMul") -> NodeRun:
        inputs = tuple(Tensor("float", s) for s in shape[0])
        return NodeRun(name, begin, inputs, (Tensor("float", shape[1]),), 24)

    nodes = [at(1), at(25), at(26), at(15), at(-3), at(35, "MatMulInteger"), at(99)]
    found = work_of(nodes, slices)
    assert found["text"] == Work(bytes=36.0, float_ops=18.0, int8_ops=0.0)  # 3 nodes, 2 calls
    assert found["block"] == Work(bytes=24.0, float_ops=0.0, int8_ops=12.0)
    assert found.keys() == {"text", "block"}


def test_the_floor_is_the_slower_of_reading_and_computing() -> None:
    limits = Limits(1, 10.0, 0, 20.0, 100.0, 400.0)
    reading = Work(bytes=20e6, float_ops=1e6, int8_ops=0)
    assert reading.floor_ms(limits) == pytest.approx(1.0)
    computing = Work(bytes=2e6, float_ops=100e6, int8_ops=400e6)
    assert computing.floor_ms(limits) == pytest.approx(2.0)
    table = against_limits({"text": reading, "block": computing}, limits, {"text": 2.0})
    assert table["text"]["of_bandwidth"] == pytest.approx(0.5)
    assert table["text"]["times_floor"] == pytest.approx(2.0)
    assert table["block"]["floor_ms"] == pytest.approx(2.0)
    assert table["block"]["of_peak"] is None


@pytest.mark.parametrize("dtype", [np.float32, np.int8])
def test_the_hand_written_graph_multiplies(tmp_path, dtype) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    weights = rng.integers(-5, 6, (300, 7)).astype(dtype)
    x = rng.integers(0, 9, (4, 300)).astype(np.float32 if dtype == np.float32 else np.uint8)
    path = tmp_path / "product.onnx"
    path.write_bytes(product_graph(4, weights))
    out = "float32" if dtype == np.float32 else "int32"
    spec = GraphSpec(
        "p", (TensorSpec("x", x.dtype.name, (4, 300)),), (TensorSpec("y", out, (4, 7)),)
    )
    (y,) = GraphSession(path, spec, SessionSettings("cpu", 1)).run({"x": x})
    np.testing.assert_array_equal(y, x.astype(np.int64) @ weights.astype(np.int64))


def test_rates_are_of_this_planet() -> None:
    assert 1e8 < read_rate(8 * 2**20, 2) < 1e13
    assert 1e8 < product_rate(np.dtype(np.float32), SessionSettings("cpu", 1)) < 1e14


COUNT = """
import json, sys
from pathlib import Path
from ttt_runtime.profiler.bench import ProfileOptions
from ttt_runtime.profiler.work import count_work
from ttt_runtime.profiler.workload import TurnShape
options = ProfileOptions(Path(sys.argv[1]), threads=1, shape=TurnShape(question_seconds=1.0))
print(json.dumps({k: vars(v) for k, v in count_work(options).items()}))
"""


@needs_standard_onnxruntime
def test_counted_work_equals_what_the_shape_of_the_model_says() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COUNT, str(SHIPPED)], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    config = Bundle.open(SHIPPED, "sizes").config
    model, layout = config.model, config.layout
    kv = model.num_key_value_heads * model.head_dim
    layer = model.hidden_size * (2 * model.hidden_size + 2 * kv + 3 * model.intermediate_size)
    body = layer * model.num_hidden_layers
    # `exact` chooses over all rows in both modes: a text step asks both heads.
    row = 2 * (body + model.vocab_size * model.hidden_size)
    assert layout.audio_start < model.vocab_size
    text = found["text"]
    products = text["float_ops"] + text["int8_ops"]
    assert row < products < 1.25 * row  # and attention to the context
    block = found["block"]
    rows = config.presets["tiny"].block_length
    assert rows * 2 * body < block["float_ops"] + block["int8_ops"] < 1.3 * rows * row
    stored = sum(
        record.bytes
        for path, record in config.files.items()
        if path.endswith(".onnx.data") and "codec" not in path
    )
    assert 0.9 * stored < text["bytes"] < 1.5 * stored
    assert found["encode"]["float_ops"] + found["encode"]["int8_ops"] > 1e7
    assert set(found) == {"encode", "prefill", "text", "block", "commit", "decode"}
