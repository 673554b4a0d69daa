"""The runtime on a device: quick to import, and without torch."""

from __future__ import annotations

import subprocess
import sys

from tests.runtime.processes import environment

# Every module of the runtime, loaded in one process.
EVERYTHING = """
import importlib, pkgutil, sys
import ttt_runtime
for module in pkgutil.walk_packages(ttt_runtime.__path__, "ttt_runtime."):
    importlib.import_module(module.name)
import onnxruntime
heavy = {"torch", "transformers", "onnx", "optimum", "accelerate"} & sys.modules.keys()
print(sorted(heavy))
"""

TIMED = """
import time
begin = time.process_time()
from ttt_runtime.decode.engine import SpeechEngine
import ttt_runtime.cli.assistant
print(time.process_time() - begin)
"""


def run(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment()
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_nothing_of_the_runtime_imports_torch() -> None:
    assert run(EVERYTHING) == "[]"


def test_importing_takes_less_than_a_second() -> None:
    """CPU seconds, best of three: a busy machine is not a slow import."""
    run(TIMED)  # writes the byte code
    assert min(float(run(TIMED)) for _ in range(3)) < 1.0
