"""The shipped bundle with bytes changed, run on the compiled kernels: for a sanitizer's eyes.

Sizes and shapes stay, so most mutations reach the C code: weights, scales, rotary tables, the
numbers of a graph's nodes. Right is an answer of any numbers, or one of our errors.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from pathlib import Path

from ttt_ref.errors import TttError
from ttt_runtime.backends.native.graph import NotNativeError
from ttt_runtime.backends.native.runner import NativeRunner
from ttt_runtime.bundle.folder import Bundle

SHIPPED = Path(__file__).parents[2] / "runtime/ttt_runtime/bundles/tiny"
FILES = (
    "decoder.onnx",
    "decoder.onnx.data",
    "embeddings.bin",
    "embeddings.scales.bin",
    "speech_head.onnx",
    "speech_head.onnx.data",
    "text_head.onnx",
    "ttt_config.json",
)


def mutate(folder: Path, chance: random.Random) -> tuple[str, bytes]:
    """Change a few bytes of one file; return its name and what it was."""
    name = chance.choice(FILES)
    path = folder / name
    before = path.read_bytes()
    data = bytearray(before)
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        data[chance.randrange(len(data))] = chance.choice(
            (0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256))
        )
    path.write_bytes(data)
    return name, before


def run_bundle(folder: Path) -> None:
    """Load a bundle on the kernels and run a block, a text step and both heads."""
    try:
        bundle = Bundle.open(folder, verify="sizes")
        runner = NativeRunner(bundle, threads=1, capacity=64)
        layout = bundle.config.layout
        hidden = runner.forward([1, 2, layout.mask_id, 3], 0)
        hidden = runner.forward([5], 4)
        runner.text_best(hidden, forbid_end=False)
        runner.speech_best(hidden)
    except (TttError, NotNativeError):
        return


def fuzz_kernels(seconds: int, keep: Path) -> tuple[int, list[Path]]:
    """Mutate and run for so long; return runs and findings (a sanitizer ends the process)."""
    keep.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="ttt-fuzz-kernels-")) / "tiny"
    shutil.copytree(SHIPPED, folder)
    until = time.monotonic() + seconds
    chance = random.Random(time.time_ns())
    runs = 0
    while time.monotonic() < until:
        name, before = mutate(folder, chance)
        changed = keep / f"{runs}-{name}"
        shutil.copyfile(folder / name, changed)  # what is there if the process dies
        run_bundle(folder)
        changed.unlink()
        (folder / name).write_bytes(before)
        runs += 1
    shutil.rmtree(folder.parent)
    return runs, sorted(keep.iterdir())
