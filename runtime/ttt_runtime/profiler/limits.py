"""The limits of this machine, measured: bytes read a second, and products a second.

Both are the best of several short runs with the threads that the bundle is measured with: a limit
is what the machine can do, not what it did on average.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ttt_runtime.backends.ort.session import GraphSession, SessionSettings
from ttt_runtime.bundle.graph_spec import GraphSpec, TensorSpec
from ttt_runtime.profiler.product_graph import product_graph

MEMORY_BYTES: Final = 384 * 2**20  # beyond the last-level caches of what this is made for
LEAST_BYTES: Final = 4 * 2**20
_SIDE: Final = 1024  # of the multiplied matrices
_SECONDS: Final = 0.3  # for each kind of product and each kernel
_ROUNDS: Final = 4


@dataclass(frozen=True)
class Limits:
    """What was measured; rates are giga a second.

    Attributes:
        threads: threads that worked at the same time.
        memory_gbps: reading a buffer that no cache holds.
        weights_bytes: what a text step of the bundle reads.
        weights_gbps: reading a buffer of that size again and again, as a pass reads weights; more
            than `memory_gbps` where they fit into a cache.
        float_gops: float32 multiply and add, two operations each.
        int8_gops: the same for 8-bit products with 32-bit sums.
    """

    threads: int
    memory_gbps: float
    weights_bytes: int
    weights_gbps: float
    float_gops: float
    int8_gops: float


def measure_limits(settings: SessionSettings, weights_bytes: int) -> Limits:
    """Measure this machine's limits in about three seconds."""
    threads = settings.thread_count
    memory = read_rate(MEMORY_BYTES, threads)
    weights = memory
    if weights_bytes < MEMORY_BYTES:
        weights = max(memory, read_rate(max(weights_bytes, LEAST_BYTES), threads))
    return Limits(
        threads,
        round(memory / 1e9, 2),
        weights_bytes,
        round(weights / 1e9, 2),
        round(product_rate(np.dtype(np.float32), settings) / 1e9, 1),
        round(product_rate(np.dtype(np.int8), settings) / 1e9, 1),
    )


# Reductions of one array: which of them comes nearest to the memory's rate differs by processor.
_READERS: Final[tuple[tuple[str, Callable[[NDArray[Any]], object]], ...]] = (
    ("uint8", np.max),
    ("int32", np.max),
    ("float32", np.sum),
    ("uint64", np.bitwise_or.reduce),
)


def read_rate(size_bytes: int, threads: int) -> float:
    """Return the bytes a second at which `threads` threads read one buffer of this size."""
    buffer = np.ones(size_bytes // 64 * 64, np.uint8)
    # Each thread reads its own part, again and again, some 64 MiB in all.
    repeats = max(1, (64 * 2**20) // len(buffer))
    parts = [part[: len(part) // 64 * 64] for part in np.array_split(buffer, threads)]
    total = sum(map(len, parts)) * repeats
    best = 0.0
    for dtype, read in _READERS:
        views = [part.view(dtype) for part in parts]
        until = time.perf_counter() + _SECONDS
        for _ in range(_ROUNDS):
            best = max(best, total / _read_once(views, read, repeats))
            if time.perf_counter() > until:
                break
    return best


def _read_once(
    views: list[NDArray[Any]], read: Callable[[NDArray[Any]], object], repeats: int
) -> float:
    """Return the seconds from the moment that all threads are ready to the end of the last."""
    ready = threading.Barrier(len(views) + 1)
    ends = [0.0] * len(views)
    cpus = _cpus()

    def work(number: int) -> None:
        if cpus:  # two threads on one core would measure half of the machine
            os.sched_setaffinity(0, {cpus[number % len(cpus)]})
        ready.wait()
        for _ in range(repeats):
            read(views[number])
        ends[number] = time.perf_counter()

    workers = [threading.Thread(target=work, args=(number,)) for number in range(len(views))]
    for worker in workers:
        worker.start()
    ready.wait()
    begin = time.perf_counter()
    for worker in workers:
        worker.join()
    return max(ends) - begin


def _cpus() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def product_rate(dtype: np.dtype[Any], settings: SessionSettings) -> float:
    """Return the operations a second of a large matrix product in the engine that runs bundles."""
    weights = np.ones((_SIDE, _SIDE), dtype)
    x = np.ones((_SIDE, _SIDE), np.float32 if dtype == np.float32 else np.uint8)
    spec = GraphSpec(
        "product",
        (TensorSpec("x", x.dtype.name, x.shape),),
        (TensorSpec("y", "float32" if dtype == np.float32 else "int32", x.shape),),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "product.onnx"
        path.write_bytes(product_graph(_SIDE, weights))
        session = GraphSession(path, spec, settings)
    session.run({"x": x})
    best = float("inf")
    until = time.perf_counter() + _SECONDS
    while time.perf_counter() < until:
        begin = time.perf_counter()
        session.run({"x": x})
        best = min(best, time.perf_counter() - begin)
    return 2 * _SIDE**3 / best
