"""Golden data and tiny weights of the GLM-4-Voice codec, as for the reference's tests."""

from __future__ import annotations

from tests.ref.codec.conftest import (
    _one_thread,
    golden_codec,
    pytest_generate_tests,
    tiny_codec,
)

__all__ = ["_one_thread", "golden_codec", "pytest_generate_tests", "tiny_codec"]
