"""The rows of an open span may lie in the cache in any order, as `delayed_cache` leaves them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ttt_export.export import export_checkpoint
from ttt_export.options import ExportOptions
from ttt_runtime.backends.load import cuda_runner
from ttt_runtime.backends.native.library import missing
from ttt_runtime.backends.native.runner import NativeRunner
from ttt_runtime.backends.ort.runner import OrtRunner
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.bundle.gqa_spec import is_gqa
from ttt_runtime.bundle.graph_spec import DECODER

needs_kernels = pytest.mark.skipif(missing() is not None, reason=str(missing()))
TOLERANCE = 1e-4
PROMPT, SPAN = 9, 12


@pytest.fixture(scope="module")
def gqa(
    tmp_path_factory: pytest.TempPathFactory, golden_checkpoints: list[Path]
) -> Callable[[Path], Any]:
    folder = tmp_path_factory.mktemp("gqa")
    options = ExportOptions(precision="int4", max_kl=10.0, min_agreement=0.0)

    @lru_cache(maxsize=2)
    def export(path: Path) -> Any:
        return export_checkpoint(path, folder / path.name, options=options)

    return export


def on_cpu(path: Path) -> Any:
    # Poisoned: a cache row read before it was written is NaN in every result.
    return OrtRunner.from_bundle(
        Bundle.open(path), threads=1, capacity=64, bucket_rows=1, poison=True
    )


def on_kernels(path: Path) -> Any:
    return NativeRunner(Bundle.open(path), threads=2, capacity=64, poison=True)


def on_device(path: Path) -> Any:
    return cuda_runner(Bundle.open(path), "cpu", threads=1, capacity=64, bucket_rows=1)


@pytest.mark.parametrize(
    ("form", "load"),
    [
        ("gqa", on_cpu),
        pytest.param("gqa", on_kernels, marks=needs_kernels),
        ("standard", on_cpu),
        ("standard", on_device),
    ],
)
def test_any_order_gives_the_same_rows(
    form: str, load: Callable[[Path], Any], golden_checkpoints: list[Path], request: Any
) -> None:
    path = request.getfixturevalue(form)(golden_checkpoints[0]).path
    config = Bundle.open(path).config
    assert is_gqa(config.graphs[DECODER].spec) == (form == "gqa")
    layout = config.layout
    runner = load(path)
    rng = np.random.default_rng(3)
    prompt = rng.integers(0, 40, PROMPT).tolist()
    codes = (layout.code_offset + rng.integers(0, layout.num_codes, SPAN)).tolist()
    codes[5:] = [layout.mask_id] * (SPAN - 5)
    runner.forward(prompt, 0)
    straight = np.array(runner.forward(codes, PROMPT))
    order = rng.permutation(SPAN)
    shuffled = [codes[i] for i in order]
    positions = (PROMPT + order).tolist()
    mixed = np.array(runner.forward(shuffled, PROMPT, positions=positions))
    np.testing.assert_allclose(mixed, straight[order], rtol=0, atol=TOLERANCE)
    # The first rows of that order stay in the cache; the others still see them.
    for kept in (1, 4, SPAN - 1):
        rest = runner.forward(shuffled[kept:], PROMPT + kept, positions=positions[kept:])
        np.testing.assert_allclose(np.array(rest), straight[order[kept:]], rtol=0, atol=TOLERANCE)
    # And their K/V is what it was: a changed code behind them changes rows, an equal one does not.
    other = [layout.code_offset if i == layout.mask_id else i for i in shuffled[4:]]
    changed = np.array(runner.forward(other, PROMPT + 4, positions=positions[4:]))
    assert np.abs(changed - straight[order[4:]]).max() > 100 * TOLERANCE
