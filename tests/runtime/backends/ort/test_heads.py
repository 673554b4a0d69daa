"""A logits-only head chooses as a standard one does, and leaves undone what nobody asks for."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from tests.runtime.toy import toy_layout
from ttt_runtime.backends.base import HeadBest
from ttt_runtime.backends.ort.heads import FORBIDDEN, LogitsOnlyHead, head_for
from ttt_runtime.backends.ort.session import GraphSession, SessionSettings
from ttt_runtime.bundle.graph_spec import SPEECH_HEAD, TEXT_HEAD, GraphSpec, TensorSpec
from ttt_runtime.decode.sampling import combine

WIDTH = 8
LAYOUT = toy_layout()


def logits_only(tmp_path, name, rows):
    """Return a session of a head with random weights, and the weights."""
    weight = np.random.default_rng(rows).standard_normal((WIDTH, rows)).astype(np.float32)
    spec = GraphSpec(
        name,
        (TensorSpec("hidden", "float32", ("N", WIDTH)),),
        (TensorSpec("logits", "float32", ("N", rows)),),
    )
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["hidden", "w"], ["logits"])],
        name,
        [helper.make_tensor_value_info("hidden", 1, ["N", WIDTH])],
        [helper.make_tensor_value_info("logits", 1, ["N", rows])],
        initializer=[onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)
    path = tmp_path / f"{name}.onnx"
    path.write_bytes(model.SerializeToString())
    return GraphSession(path, spec, SessionSettings(threads=1)), weight


def test_best_ids_and_sums(tmp_path):
    start = LAYOUT.audio_start
    text, text_weight = logits_only(tmp_path, TEXT_HEAD, start)
    speech, speech_weight = logits_only(tmp_path, SPEECH_HEAD, LAYOUT.vocab_size - start)
    heads = [head_for(session, LAYOUT) for session in (text, speech)]
    assert all(isinstance(head, LogitsOnlyHead) for head in heads)
    draw = np.random.default_rng(0)
    for rows in (1, 7, 3):  # the buffer grows, and is used in part
        hidden = draw.standard_normal((rows, WIDTH)).astype(np.float32)
        logits = hidden @ np.concatenate([text_weight, speech_weight], axis=1)
        ids, confidence = combine(*(head.best(hidden) for head in heads))
        np.testing.assert_array_equal(ids, logits.argmax(1))
        want = np.exp(logits - logits.max(1, keepdims=True))
        np.testing.assert_allclose(confidence, 1 / want.sum(1), rtol=1e-4)
        np.testing.assert_allclose(heads[1].logits(hidden), logits[:, start:], rtol=1e-4, atol=1e-5)


def test_the_end_can_be_forbidden(tmp_path):
    text, weight = logits_only(tmp_path, TEXT_HEAD, LAYOUT.audio_start)
    head = head_for(text, LAYOUT)
    hidden = weight[:, [LAYOUT.im_end_id]].T * 10
    assert head.best(hidden).ids[0] == LAYOUT.im_end_id
    best = head.best(hidden, forbid_end=True)
    assert best.ids[0] != LAYOUT.im_end_id
    assert np.isfinite(best.sum_exp).all()
    assert head.logits(hidden, forbid_end=True)[0, LAYOUT.im_end_id] == np.float32(FORBIDDEN)


def test_the_sum_is_computed_once_and_only_if_asked_for():
    asked = []

    def sums():
        asked.append(1)
        return np.ones(2, np.float32)

    best = HeadBest(np.zeros(2, np.int64), np.zeros(2, np.float32), sums)
    assert not asked
    assert best.sum_exp is best.sum_exp
    assert len(asked) == 1
