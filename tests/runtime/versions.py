"""Marks of tests that need more than the oldest onnxruntime that the runtime takes."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import pytest

from ttt_runtime.bundle.basic_spec import STANDARD_ONNXRUNTIME
from ttt_runtime.machine.versions import version_tuple


def _installed() -> str:
    try:
        return version("onnxruntime")
    except PackageNotFoundError:
        return "0"


needs_standard_onnxruntime = pytest.mark.skipif(
    version_tuple(_installed()) < STANDARD_ONNXRUNTIME,
    reason=f"onnxruntime {_installed()} runs graphs of basic operators only",
)
