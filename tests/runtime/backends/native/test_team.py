"""The team of threads: any number of them, any of them late, the same results."""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.runtime.backends.native.test_product import COMPILED, draw_matrix, multiply
from ttt_ref.errors import DeviceError
from ttt_runtime.backends.native import kernels as kernels_module
from ttt_runtime.backends.native.kernels import MOST_THREADS, Kernels
from ttt_runtime.backends.native.library import missing
from ttt_runtime.backends.native.top_k import NativeTopK
from ttt_runtime.backends.native.weights import HeadWeights
from ttt_runtime.machine.cpus import CpuWatch

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def matrix(bits=4):
    return draw_matrix(np.random.default_rng(bits), 256, 3000, bits, 64)[0]


def products(kernels, stored, rows):
    x = np.random.default_rng(rows).normal(size=(rows, stored.inputs)).astype(np.float32)
    out = np.zeros((rows, stored.outputs), np.float32)
    multiply(kernels, HeadWeights(kernels, stored), x, out)
    return out


@pytest.mark.parametrize("adapts", [False, True])
@pytest.mark.parametrize("threads", [2, 3, 7, 40])
def test_the_number_of_threads_changes_nothing(threads, adapts):
    """Far more threads than CPUs: whoever has one takes what there is."""
    alone, team = Kernels(1), Kernels(threads, adapts=adapts)
    for bits in (4, 8):
        stored = matrix(bits)
        for rows in (1, 26):
            want = products(alone, stored, rows)
            for _ in range(20):
                np.testing.assert_array_equal(products(team, stored, rows), want)


@pytest.mark.parametrize("variant", COMPILED)
def test_the_first_of_equals_is_found_whoever_found_it(variant):
    team = Kernels(7, variant, adapts=False)
    logits = np.zeros(50_000, np.float32)
    logits[[49_999, 7, 20_000, 4096]] = 3
    find = NativeTopK(team)
    for _ in range(50):
        ids, values, _ = find.find([logits[:30_000], logits[30_000:]], 6, np.float32(1))
        assert ids.tolist() == [7, 4096, 20_000, 49_999, 0, 1]
        assert values.tolist() == [3, 3, 3, 3, 0, 0]


def _spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@pytest.mark.slow
def test_beside_other_work_the_results_are_the_same():
    """Members lose their CPU in the middle of everything."""
    spawn = multiprocessing.get_context("spawn")
    busy = [spawn.Process(target=_spin, args=(8,)) for _ in range(2 * (os.cpu_count() or 1))]
    for process in busy:
        process.start()
    try:
        stored = matrix()
        want = products(Kernels(1), stored, 26)
        team = Kernels(4)
        weights = HeadWeights(team, stored)
        x = np.random.default_rng(26).normal(size=(26, 256)).astype(np.float32)
        out = np.zeros_like(want)
        while busy[0].is_alive():
            multiply(team, weights, x, out)
            np.testing.assert_array_equal(out, want)
    finally:
        for process in busy:
            process.kill()
            process.join()


def test_a_team_follows_the_cpus_that_it_may_use(monkeypatch):
    class Narrow(CpuWatch):
        granted = 3

        def is_due(self) -> bool:
            return True

        def usable(self) -> int:
            return self.granted

    monkeypatch.setattr(kernels_module, "CpuWatch", Narrow)
    monkeypatch.setattr(kernels_module, "allowed_cpus", lambda: 4)
    team = Kernels(None, adapts=False)
    assert team.threads == 4
    stored = matrix()
    want = products(team, stored, 26)
    assert team.members == 3
    for granted in (1, 4, 9, 2):
        Narrow.granted = granted
        np.testing.assert_array_equal(products(team, stored, 26), want)
        assert team.members == min(granted, 4)


def test_a_team_that_cannot_be_is_refused_in_one_line():
    for threads in (MOST_THREADS + 1, 2**31 - 1):
        with pytest.raises(DeviceError, match=f"{threads} threads cannot be had"):
            Kernels(threads)


def test_teams_come_and_go():
    """Threads that wait in any way are told to end."""
    stored = matrix()
    for round_ in range(30):
        team = Kernels(1 + round_ % 5)
        if round_ % 2:
            products(team, stored, 1 + round_ % 3)
        del team


def test_callers_of_one_team_wait_for_each_other():
    """The structures of a call were filled in before the lock was taken: other results, SIGSEGV."""
    team = Kernels(3)
    stored = matrix()
    want = {rows: products(team, stored, rows) for rows in range(1, 9)}
    find = NativeTopK(team)
    logits = np.random.default_rng(0).normal(size=9000).astype(np.float32)
    ids = np.argsort(-logits, kind="stable")

    def work(caller):
        for turn in range(40):
            rows = 1 + (caller + turn) % 8
            np.testing.assert_array_equal(products(team, stored, rows), want[rows])
            found = find.find([logits], rows, np.float32(1))[0]
            np.testing.assert_array_equal(found, ids[:rows])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
