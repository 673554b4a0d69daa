"""Shared by the tests of the exporter: fp32 bundles of the golden checkpoints, made once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ttt_export.export import ExportResult, export_checkpoint
from ttt_ref import checkpoint
from ttt_ref.checkpoint import Loaded
from ttt_runtime.bundle.folder import Bundle

Export = Callable[[Path], ExportResult]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Return a function that exports a checkpoint in fp32 once in a session."""
    folder = tmp_path_factory.mktemp("bundles")

    @lru_cache(maxsize=8)
    def export(path: Path) -> ExportResult:
        # Two golden folders may each hold a checkpoint of this name.
        return export_checkpoint(path, folder / f"{export.cache_info().currsize}-{path.name}")

    return export


@pytest.fixture(scope="session")
def standard(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Bundle]:
    """Return a function that exports a checkpoint in fp32 for GPUs (which the CPU runs too)."""
    folder = tmp_path_factory.mktemp("standard")

    @lru_cache(maxsize=4)
    def export(path: Path) -> Bundle:
        out = folder / f"{export.cache_info().currsize}-{path.name}"
        return Bundle.open(export_checkpoint(path, out, "fp32", "cuda").path)

    return export


@pytest.fixture(scope="session")
def load_once() -> Callable[[Path], Loaded]:
    """Return a loader that reads each checkpoint once in a session."""
    return lru_cache(maxsize=8)(checkpoint.load)


@pytest.fixture
def tied(golden_checkpoints: list[Path]) -> Path:
    """Return one golden checkpoint for tests that need just any."""
    return golden_checkpoints[0]


@pytest.fixture(scope="session")
def untied(golden_checkpoints: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint with an output layer of its own, made from a golden one."""
    folder = tmp_path_factory.mktemp("untied") / "untied"
    shutil.copytree(golden_checkpoints[0], folder)
    for file in folder.iterdir():
        file.chmod(0o644)
    config = json.loads((folder / "config.json").read_text())
    config["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    table = weights["model.embed_tokens.weight"]
    noise = np.random.default_rng(0).normal(0, 0.05, table.shape)
    weights["lm_head.weight"] = (table[::-1] + noise).astype(np.float32)
    save_file(weights, folder / "model.safetensors")
    return folder
