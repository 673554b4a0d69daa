"""Golden data: numbers of the released implementation, from the folder in ``TTT_GOLDEN``.

A test that takes one of the arguments in ``KINDS`` (such as ``generation_case``) runs once for
each case that the folder's manifests list. Default: the copy under tests/golden/ttt.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

KINDS = {f"{kind}_case": kind for kind in ("masks", "logits", "losses", "preprocess", "generation")}
DEFAULT_FOLDER = Path(__file__).parent / "golden" / "ttt"


@dataclass(frozen=True)
class GoldenCase:
    """One case of a manifest; ``case["name"]`` reads one of its arrays."""

    name: str
    args: dict[str, Any]
    results: dict[str, Any]
    array_names: tuple[str, ...]
    arrays_file: Path
    checkpoint: Path

    def __contains__(self, array: str) -> bool:
        return array in self.array_names

    def __getitem__(self, array: str) -> NDArray[Any]:
        return _arrays(self.arrays_file)[f"{self.name}/{array}"]


@lru_cache(maxsize=16)
def _arrays(file: Path) -> dict[str, NDArray[Any]]:
    with np.load(file, allow_pickle=False) as stored:
        return dict(stored)


def golden_folder() -> Path:
    """Return the folder of the golden data; a wrong ``TTT_GOLDEN`` is an error, never a skip."""
    folder = Path(os.environ.get("TTT_GOLDEN") or DEFAULT_FOLDER)
    if not (folder / "checkpoints").is_dir() and (folder / "ttt" / "checkpoints").is_dir():
        folder = folder / "ttt"
    if not (folder / "checkpoints").is_dir():
        raise pytest.UsageError(f"no golden data (checkpoints/, <set>/*.json) in {folder}")
    return folder


def golden_cases(kind: str) -> list[GoldenCase]:
    """Return all cases of a kind, over all checkpoints of the folder."""
    root = golden_folder()
    cases = []
    for manifest_file in sorted(root.glob(f"*/{kind}.json")):
        manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
        cases += [
            GoldenCase(
                name=case["name"],
                args=case["args"],
                results=case.get("results", {}),
                array_names=tuple(case["arrays"]),
                arrays_file=manifest_file.with_name(manifest["arrays_file"]),
                checkpoint=root / manifest["checkpoint"],
            )
            for case in manifest["cases"]
        ]
    if not cases:
        raise pytest.UsageError(f"no {kind} cases in {root}")
    return cases


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a golden test once per case."""
    for argument, kind in KINDS.items():
        if argument in metafunc.fixturenames:
            cases = golden_cases(kind)
            ids = [f"{case.checkpoint.name}-{case.name}" for case in cases]
            metafunc.parametrize(argument, cases, ids=ids)


@pytest.fixture(scope="session")
def golden_checkpoints() -> list[Path]:
    """Return the checkpoint folders of the golden data."""
    return sorted(path for path in (golden_folder() / "checkpoints").iterdir() if path.is_dir())
