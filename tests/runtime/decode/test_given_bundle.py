"""Golden generation with a bundle of basic operators that was exported elsewhere.

``TTT_BASIC_BUNDLE`` names it; `python -m tests.pythons` exports one and runs this where neither
PyTorch nor the exporter is installed, on the oldest Python and onnxruntime.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import pytest

from ttt_ref.config import GenerationConfig
from ttt_runtime.decode.engine import SpeechEngine

GIVEN = os.environ.get("TTT_BASIC_BUNDLE")
pytestmark = pytest.mark.skipif(GIVEN is None, reason="TTT_BASIC_BUNDLE names no bundle")


@lru_cache(maxsize=1)
def given_engine() -> SpeechEngine:
    return SpeechEngine.from_bundle(str(GIVEN), threads=1, capacity=512)


def test_golden_generation(generation_case: Any) -> None:
    engine = given_engine()
    engine.reset()
    prompt = generation_case["prompt_ids"].tolist()
    new_ids = engine.generate_ids(prompt, GenerationConfig.from_dict(generation_case.args))
    assert prompt + new_ids == generation_case["output_ids"].tolist()
