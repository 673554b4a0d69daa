"""The arithmetic of the programs that measure the server."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.server_load import Row, search
from benchmarks.server_soak import MOST_GROWTH_MB, problems


@pytest.mark.parametrize(
    ("truth", "most"), [(1, 64), (2, 64), (5, 64), (13, 64), (40, 64), (90, 64)]
)
def test_the_search_finds_what_a_machine_holds(truth: int, most: int) -> None:
    asked: list[int] = []

    def run(sessions: int) -> Row:
        asked.append(sessions)
        p95 = 100.0 if sessions <= truth else 900.0
        return Row(sessions, 10, 90.0, p95, 900.0, 0, 1.0, 200.0)

    holds, rows = search(500.0, run, most)
    assert len(asked) == len(rows) <= 10
    assert max(asked) <= most
    wanted = min(truth, most)
    assert wanted - max(1, wanted // 8) <= holds <= wanted
    assert len(set(asked)) == len(asked)


def test_gaps_count_as_failure() -> None:
    rows = search(500.0, lambda n: Row(n, 10, 90.0, 100.0, 100.0, 1, 1.0, 200.0), 8)
    assert rows[0] == 0


GOOD: dict[str, Any] = {
    "acts": {"by_hand": 3, "garbage_bytes": 1},
    "left over": {"sessions": 0},
    "defects": 0,
    "tracebacks in the log": 0,
    "memory MB": [200.0, 201.0],
    "lone answers unchanged": True,
}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({}, ""),
        ({"left over": {"sessions": 1}}, "left"),
        ({"defects": 1}, "defects"),
        ({"tracebacks in the log": 1}, "defects"),
        ({"memory MB": [200.0, 201.0 + MOST_GROWTH_MB]}, "memory"),
        ({"lone answers unchanged": False}, "differently"),
        ({"acts": {"by_hand: TimeoutError": 1}}, "plain clients failed"),
    ],
)
def test_the_soak_tells_what_did_not_hold(change: dict[str, Any], word: str) -> None:
    found = problems({**GOOD, **change})
    assert bool(found) == bool(word)
    assert word in " ".join(found)
