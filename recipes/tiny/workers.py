"""Processes that share the recipe's long work."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.pool import Pool
from typing import Any

from ttt_ref.errors import ConfigError

MOST_WORKERS = 256


@contextmanager
def worker_pool(
    workers: int, start: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()
) -> Iterator[Pool]:
    """Give a pool of fresh processes; each calls ``start(*arguments)`` first.

    They are born deaf to Ctrl-C: it reaches every process of a terminal, and this one ends them
    with one line, where each of them would print a traceback.

    Raises:
        ConfigError: no worker, or more than :data:`MOST_WORKERS`.
    """
    if not 1 <= workers <= MOST_WORKERS:
        raise ConfigError(f"{workers} worker processes; expected 1 .. {MOST_WORKERS}")
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pool = multiprocessing.get_context("spawn").Pool(workers, start, arguments)
    finally:
        signal.signal(signal.SIGINT, heard)
    with pool:
        yield pool
