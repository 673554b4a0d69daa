"""Lets the runtime's tests run where only the runtime is installed (`python -m tests.pythons`)."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

# What tests import beyond the runtime, and modules of tests that stand for such an import.
_EXTRAS = ("hypothesis", "onnx", "safetensors", "torch")
_STANDING_FOR = {
    "tests.runtime.onnx_graphs": "onnx",
    "ttt_export": "torch",
    "tests.export": "torch",
}
_IMPORT = re.compile(r"^\s*(?:from|import) ([\w.]+)", re.MULTILINE)


def _missing(file: Path) -> bool:
    """Tell whether a test file imports something that is not installed."""
    for module in _IMPORT.findall(file.read_text(encoding="utf-8")):
        for start, package in (*_STANDING_FOR.items(), *((name, name) for name in _EXTRAS)):
            if (module == start or module.startswith(f"{start}.")) and find_spec(package) is None:
                return True
    return False


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the tests that need more than the runtime, where that is not there."""
    if collection_path.is_dir():
        conftest = collection_path / "conftest.py"
        return True if conftest.is_file() and _missing(conftest) else None
    return True if collection_path.suffix == ".py" and _missing(collection_path) else None
