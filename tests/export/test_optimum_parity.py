"""Our decoder against optimum's own ONNX export of the same weights, on text-only prompts.

Without speech the model is a plain Qwen2, which optimum-onnx knows how to export. Its graph is
kept in tests/golden/optimum; it makes no use of our code, nor we of its.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from tests.export.conftest import Export
from ttt_runtime.backends.ort.runner import OrtRunner
from ttt_runtime.bundle.folder import Bundle

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden"
CHECKPOINT = GOLDEN / "ttt" / "checkpoints" / "tiny-tied"
STORED = GOLDEN / "optimum" / "tiny-tied.onnx"
OTHER_PYTHON = os.environ.get("TTT_OPTIMUM_PYTHON")
TOLERANCE = 1e-4
Logits = NDArray[np.float32]


class OptimumModel:
    """A decoder as optimum exports it: past keys and values in, longer ones out."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options)
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._past: dict[str, NDArray[Any]] = {
            node.name: np.zeros((1, node.shape[1], 0, node.shape[3]), np.float32)
            for node in self._session.get_inputs()
            if node.name.startswith("past_key_values")
        }
        self._length = 0

    def forward(self, ids: list[int]) -> Logits:
        """Append ids; returns logits [L, V]."""
        start, stop = self._length, self._length + len(ids)
        feeds: dict[str, NDArray[Any]] = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, stop), np.int64),
            "position_ids": np.arange(start, stop, dtype=np.int64)[None],
            **self._past,
        }
        results = dict(zip(self._outputs, self._session.run(None, feeds), strict=True))
        for name in self._past:
            self._past[name] = results[name.replace("past_key_values", "present")]
        self._length = stop
        logits: Logits = results["logits"][0]
        return logits


class OurModel:
    """Our decoder and both heads, over all rows of the vocabulary."""

    def __init__(self, runner: OrtRunner) -> None:
        self._runner = runner
        self._length = 0

    def forward(self, ids: list[int]) -> Logits:
        """Append ids; returns logits [L, V]."""
        hidden = self._runner.forward(ids, self._length).copy()
        self._length += len(ids)
        text = self._runner.text_logits(hidden, forbid_end=False).copy()
        return np.concatenate([text, self._runner.speech_logits(hidden)], axis=1)


@pytest.fixture(scope="module")
def bundle(exported: Export) -> Bundle:
    return Bundle.open(exported(CHECKPOINT).path)


def prompt(bundle: Bundle, length: int, seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    ids: list[int] = rng.integers(0, bundle.config.layout.audio_start, length).tolist()
    return ids


def difference(bundle: Bundle, optimum: Path, ids: list[int], cuts: list[int]) -> float:
    """Return the largest difference of logits when `ids` are given in pieces that end at `cuts`."""
    ours, theirs = OurModel(OrtRunner.from_bundle(bundle, threads=1)), OptimumModel(optimum)
    worst, start = 0.0, 0
    for stop in [*cuts, len(ids)]:
        piece = ids[start:stop]
        mine, other = ours.forward(piece), theirs.forward(piece)
        assert mine.shape == other.shape
        worst = max(worst, float(np.abs(mine - other).max()))
        start = stop
    return worst


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("length", [1, 2, 17, 150])
def test_text_prompts_give_optimums_logits(bundle: Bundle, length: int, seed: int) -> None:
    ids = prompt(bundle, length, seed)
    assert difference(bundle, STORED, ids, []) < TOLERANCE


def test_step_by_step_with_the_cache(bundle: Bundle) -> None:
    ids = prompt(bundle, 40, seed=9)
    assert difference(bundle, STORED, ids, [20, 21, 22, 30, 39]) < TOLERANCE


def test_speech_is_where_the_two_part(bundle: Bundle) -> None:
    """A plain Qwen2 export is causal inside speech too: the reason for an exporter of our own."""
    layout = bundle.config.layout
    speech = list(range(layout.code_offset, layout.code_offset + 5))
    ids = prompt(bundle, 8, seed=1) + speech
    assert difference(bundle, STORED, ids, []) > 100 * TOLERANCE


@pytest.mark.slow
@pytest.mark.skipif(OTHER_PYTHON is None, reason="TTT_OPTIMUM_PYTHON names no Python")
def test_a_fresh_optimum_export_is_the_stored_one(bundle: Bundle, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh.onnx"
    program = [str(OTHER_PYTHON), str(HERE / "optimum_reference.py"), str(CHECKPOINT), str(fresh)]
    subprocess.run(program, check=True, capture_output=True, timeout=600)
    assert difference(bundle, fresh, prompt(bundle, 33, seed=2), [30]) < TOLERANCE
    ids = prompt(bundle, 33, seed=3)
    same = OptimumModel(fresh).forward(ids) - OptimumModel(STORED).forward(ids)
    assert np.abs(same).max() < 1e-5
