"""The kernels as Python calls them."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any, Final

from ttt_ref.errors import DeviceError, TttError
from ttt_runtime.backends.native.library import best_variant, load
from ttt_runtime.backends.native.structures import Call, Head, Matrix, Model, Stored, TopKFinder
from ttt_runtime.machine.cpus import CpuWatch, allowed_cpus

MOST_THREADS: Final = 256  # of team.h


class Kernels:
    """The kernels with a team of threads; callers wait for each other.

    Args:
        threads: size of the team; the calling thread is one of it. None takes the CPUs that this
            process may run on, as many of them at a time as `machine.cpus.CpuWatch` says.
        variant: a key of `library.VARIANTS`; None takes the fastest.
        adapts: fewer threads take part while others want the CPUs; the results are the same.

    Attributes:
        lock: holds off other callers: to be held while the structure of a call is filled in, until
            its results are taken out.
        lanes: floats of a vector; sizes that are walked must be multiples of it.
        scored: rows of the cache that are scored at once; its buffers are filled up to it.

    Raises:
        DeviceError: there are no kernels for this machine, or no threads to be had.
    """

    def __init__(
        self, threads: int | None, variant: str | None = None, *, adapts: bool = True
    ) -> None:
        self._watch = CpuWatch() if threads is None else None
        threads = threads or min(allowed_cpus(), MOST_THREADS)
        self.variant = variant or best_variant()
        self._library = load(self.variant)
        self._handle = self._library.ttt_new(threads, int(adapts))
        if not self._handle:
            raise DeviceError(
                f"{threads} threads cannot be had (at most {MOST_THREADS}, and what the system "
                "grants); ask for fewer with --threads"
            )
        self.lock = threading.RLock()  # two callers at a time would share one team and its room
        self._process = os.getpid()
        finalizer = weakref.finalize(self, _free, self._library, self._handle, self._process)
        finalizer.atexit = False  # a thread may still be at work; the system takes all back
        self.threads = threads
        self.lanes = int(self._library.ttt_lanes())
        self.scored = int(self._library.ttt_scored())

    @property
    def members(self) -> int:
        """Threads that took part in the last work."""
        return int(self._library.ttt_members(self._handle))

    def packed_bytes(self, matrix: Matrix) -> int:
        """Return the bytes that a matrix takes in panels."""
        return int(self._library.ttt_packed_bytes(matrix))

    def pack(self, matrix: Matrix, stored: Stored, to: int) -> None:
        """Write a stored matrix in panels to the address `to`."""
        self._run(self._library.ttt_pack, matrix, stored, to)

    def choose(self, head: Head) -> None:
        """Write logits, and each row's best and its column; TttError without memory."""
        self._run(self._library.ttt_choose, head)

    def sum_up(self, head: Head) -> None:
        """Write the sums of exp(logit - best) over the logits that `choose` left."""
        self._run(self._library.ttt_sum_up, head)

    def find(self, top_k_finder: TopKFinder) -> None:
        """Go over logits; TttError without memory."""
        self._run(self._library.ttt_find_top_k, top_k_finder)

    def forward(self, model: Model, call: Call) -> None:
        """Run the decoder; TttError without memory, or for rows that cannot be."""
        self._run(self._library.ttt_forward, model, call)

    def _run(self, job: Any, *arguments: Any) -> None:
        if os.getpid() != self._process:  # a forked process has the memory, not the threads
            raise TttError(
                "this engine was loaded before the process forked; load one in the new process "
                "(multiprocessing: start method spawn)"
            )
        with self.lock:
            if self._watch is not None and self._watch.is_due():
                self._library.ttt_limit(self._handle, self._watch.usable())
            status = job(self._handle, *arguments)
        if status == -1:
            raise TttError("native kernels: no memory for this work")
        if status:
            raise TttError("native kernels: an id, a row or a position that does not exist")


def _free(library: Any, handle: int, process: int) -> None:
    if os.getpid() == process:
        library.ttt_free(handle)
