"""ttt-profile on random weights without codec, tokenizer prompts or presets of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CODE = "import sys; from ttt_runtime.cli.profile import main; sys.argv = sys.argv[1:]; main()"


def test_random_weights_are_profiled_in_full(tied: Path, exported: Any, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    command = [sys.executable, "-c", CODE, "ttt-profile", str(exported(tied).path), "-r", "2"]
    options = ["--threads", "1", "--cold-starts", "1", "--preset", "script", "--trace", str(trace)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    doc = json.loads(done.stdout.splitlines()[-1])
    phases = doc["phases_ms"]
    assert phases["encode"]["count"] == phases["decode"]["count"] == 0
    # 3 spans of 13 text tokens and one block: `script` runs two passes a block.
    counts = {phase: phases[phase]["count"] for phase in ("prefill", "text", "block", "commit")}
    assert counts == {"prefill": 1, "text": 39, "block": 6, "commit": 3}
    for phase in counts:
        assert phases[phase]["mega_ops"] > 0
        assert phases[phase]["megabytes"] > 0
        assert phases[phase]["floor_ms"] > 0
    # With guidance a second row is computed in all passes but a block's first.
    assert phases["block"]["mega_ops"] > phases["commit"]["mega_ops"]
    assert doc["cold_start"]["ready_ms"] > 0
    assert doc["turn"]["ttfa_ms"]["p50"] > 0
    assert json.loads(trace.read_text())["traceEvents"]
