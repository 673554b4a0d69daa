"""Golden generation with bundles of basic operators that were exported elsewhere.

``TTT_BASIC_BUNDLES`` names their folder, each has its checkpoint's name; `python -m tests.pythons`
exports them and runs this where neither PyTorch nor the exporter is installed, on the oldest Python
and onnxruntime.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from ttt_ref.config import GenerationConfig
from ttt_runtime.decode.engine import SpeechEngine

GIVEN = os.environ.get("TTT_BASIC_BUNDLES")
pytestmark = pytest.mark.skipif(not GIVEN, reason="TTT_BASIC_BUNDLES names no folder")


@lru_cache(maxsize=4)
def given_engine(name: str) -> SpeechEngine:
    return SpeechEngine.from_bundle(Path(str(GIVEN)) / name, threads=1, capacity=512)


def test_golden_generation(generation_case: Any) -> None:
    engine = given_engine(generation_case.checkpoint.name)
    engine.reset()
    prompt = generation_case["prompt_ids"].tolist()
    new_ids = engine.generate_ids(prompt, GenerationConfig.from_dict(generation_case.args))
    assert prompt + new_ids == generation_case["output_ids"].tolist()
