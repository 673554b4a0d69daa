"""Time decoders in onnxruntime side by side: ``python -m benchmarks.decoder_forms BUNDLE ...``.

Each round gives every decoder three text steps and one block behind the same context, so that a
noisy minute is shared by all of them.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import median

from ttt_runtime.backends.ort.runner import OrtRunner
from ttt_runtime.bundle.folder import Bundle

CONTEXT_ROWS = 512
BLOCK_ROWS = 27  # a block of 26 and the text token before it
ROUNDS = 7
STEPS = 3


def forward_ms(runner: OrtRunner, rows: int, times: int) -> float:
    """Return the mean milliseconds of forwards of so many rows behind the context."""
    ids = list(range(rows))
    start = time.perf_counter()
    for _ in range(times):
        runner.forward(ids, CONTEXT_ROWS)
    return (time.perf_counter() - start) * 1e3 / times


def main(bundles: list[str]) -> None:
    """Print the median and the least time of each bundle."""
    runners = {}
    for path in bundles:
        runner = OrtRunner.from_bundle(Bundle.open(Path(path)), capacity=2 * CONTEXT_ROWS)
        runner.forward(list(range(CONTEXT_ROWS)), 0)
        forward_ms(runner, BLOCK_ROWS, 1)
        runners[path] = runner
    steps: dict[str, list[float]] = {path: [] for path in bundles}
    blocks: dict[str, list[float]] = {path: [] for path in bundles}
    for _ in range(ROUNDS):
        for path, runner in runners.items():
            steps[path].append(forward_ms(runner, 1, STEPS))
            blocks[path].append(forward_ms(runner, BLOCK_ROWS, 1))
    print(f"| bundle | text step, ms (least) | {BLOCK_ROWS} rows, ms (least) |")
    print("| --- | ---: | ---: |")
    for path in bundles:
        cells = [f"{median(v):.1f} ({min(v):.1f})" for v in (steps[path], blocks[path])]
        print(f"| {Path(path).name} | {cells[0]} | {cells[1]} |")


if __name__ == "__main__":
    main(sys.argv[1:])
