"""Time from starting a process to its first sound: imports, loading, first turn.

    python -m ttt_runtime.profiler.cold_start BUNDLE [--question FILE] [...]

Run by `ttt-profile` in fresh processes. Files may still lie in the system's page cache: what is
cold is the process.
"""

from __future__ import annotations

import time

_BEGIN_NS = time.monotonic_ns()  # before anything else is imported

import json  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from typing import Any  # noqa: E402

from ttt_ref.errors import ConfigError, exit_on_error  # noqa: E402
from ttt_runtime.backends.ort.session import share_thread_pool  # noqa: E402
from ttt_runtime.profiler.bench import Bench, ProfileOptions  # noqa: E402
from ttt_runtime.profiler.options_json import options_from_json, options_to_json  # noqa: E402

FIGURES = ("interpreter_ms", "imports_ms", "load_ms", "first_turn_ms", "first_audio_ms")


def cold_start(options: ProfileOptions) -> dict[str, float | None]:
    """Start a process that loads the bundle and runs one turn; return its times in ms.

    Returns:
        `interpreter_ms` to the first line of our code, `imports_ms`, `load_ms` (model and codec),
        `ready_ms` (their sum: from the start of the process to being able to listen),
        `first_turn_ms`, `ttfa_ms` of that turn, and `first_audio_ms` from the start of the process.
    """
    start_ns = time.monotonic_ns()
    command = [sys.executable, "-m", "ttt_runtime.profiler.cold_start", options_to_json(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise ConfigError(f"a cold start failed: {lines[-1].removeprefix('error: ')}")
    child: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    interpreter = (child.pop("begin_ns") - start_ns) / 1e6
    ready = interpreter + child["imports_ms"] + child["load_ms"]
    ttfa = child["ttfa_ms"]
    figures = {
        "interpreter_ms": interpreter,
        **child,
        "ready_ms": ready,
        "first_audio_ms": None if ttfa is None else ready + ttfa,
    }
    return {name: None if ms is None else round(ms, 3) for name, ms in figures.items()}


def _child(text: str) -> dict[str, float | None]:
    options = options_from_json(text)
    imported_ns = time.monotonic_ns()
    bench = Bench(options)
    loaded_ns = time.monotonic_ns()
    timeline = bench.turn().timeline
    return {
        "begin_ns": _BEGIN_NS,
        "imports_ms": (imported_ns - _BEGIN_NS) / 1e6,
        "load_ms": (loaded_ns - imported_ns) / 1e6,
        "first_turn_ms": timeline.total_ms,
        "ttfa_ms": timeline.ttfa_ms,
    }


if __name__ == "__main__":
    share_thread_pool()
    with exit_on_error():
        print(json.dumps(_child(sys.argv[1])))
