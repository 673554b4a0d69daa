"""Shared by the tests of the exporter: fp32 bundles of the golden checkpoints, made once."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest

from ttt_export.export import ExportResult, export_checkpoint
from ttt_ref import checkpoint
from ttt_ref.checkpoint import Loaded

Export = Callable[[Path], ExportResult]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Return a function that exports a checkpoint in fp32 once in a session."""
    folder = tmp_path_factory.mktemp("bundles")

    @lru_cache(maxsize=8)
    def export(path: Path) -> ExportResult:
        return export_checkpoint(path, folder / path.name)

    return export


@pytest.fixture(scope="session")
def load_once() -> Callable[[Path], Loaded]:
    """Return a loader that reads each checkpoint once in a session."""
    return lru_cache(maxsize=8)(checkpoint.load)


@pytest.fixture
def tied(golden_checkpoints: list[Path]) -> Path:
    """Return one golden checkpoint for tests that need just any."""
    return golden_checkpoints[0]
