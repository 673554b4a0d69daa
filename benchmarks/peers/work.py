"""What every engine is asked to do, and how it is asked.

An engine runs in a process of its own, so that its memory is its own, and is stopped (SIGSTOP)
while another one is measured, so that its threads cannot spin beside it. It reads JSON lines and
answers each with one:

    {"do": "memory"}                                       -> {"mib": resident MiB}
    {"do": "context", "tokens": 256}                       -> {}
    {"do": "text" | "block", "runs": 5}                    -> {"ms": [...]}
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Protocol

BLOCK = 26
LONGEST = 2048


class Engine(Protocol):
    """One engine with a model. After `text` and `block` the context is what it was before."""

    def context(self, tokens: int) -> None:
        """Fill the cache with so many tokens."""
        ...

    def text(self) -> None:
        """Compute the token that follows the context, logits included."""
        ...

    def block(self) -> None:
        """Compute 26 tokens on top of the context, and logits for each."""
        ...

    def restore(self) -> None:
        """Bring the context back after `text` or `block`; not timed."""
        ...


def token(position: int) -> int:
    """Return some text token; the same for every engine."""
    return 1000 + position * 7919 % 100_000


def resident_mib() -> float:
    """Return the resident memory of this process, mapped file pages included."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def serve(engine: Engine) -> None:
    """Answer requests from stdin until it ends."""
    answer = sys.stdout
    sys.stdout = sys.stderr  # engines that print must not disturb the answers
    print(json.dumps({"mib": resident_mib()}), file=answer, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        reply: dict[str, object] = {}
        if request["do"] == "memory":
            reply = {"mib": resident_mib()}
        elif request["do"] == "context":
            engine.context(request["tokens"])
        else:
            reply = {"ms": _timed(engine, request["do"], request["runs"])}
        print(json.dumps(reply), file=answer, flush=True)


def _timed(engine: Engine, what: str, runs: int) -> list[float]:
    run = engine.text if what == "text" else engine.block
    taken = []
    for number in range(runs + 1):
        begin = time.perf_counter()
        run()
        if number:  # the first wakes threads and fills caches
            taken.append((time.perf_counter() - begin) * 1e3)
        engine.restore()
    return taken
