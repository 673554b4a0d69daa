"""How far ahead of its time sound is sent, on a simulated clock."""

from __future__ import annotations

import asyncio

import pytest

from ttt_runtime.server.pacing import Pace


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_two_seconds_may_go_at_once_and_the_rest_in_its_time() -> None:
    """What was sent cannot be interrupted: ten seconds in one go would all count as heard."""
    clock = Clock()
    pace = Pace(2.0, clock)
    sent_at = []
    for _ in range(50):
        clock.now += pace.wait_seconds
        sent_at.append(clock.now - 100.0)
        pace.sent(0.2)
    assert sent_at[9] == 0.0
    assert sent_at[-1] == pytest.approx(50 * 0.2 - 2.0 - 0.2, abs=0.21)
    assert pace.sent_seconds == pytest.approx(10.0)
    assert pace.underruns == 0


def test_a_gap_in_the_sound_is_counted_once_and_not_made_up_for() -> None:
    clock = Clock()
    pace = Pace(2.0, clock)
    pace.sent(1.0)
    clock.now += 3.0
    pace.sent(1.0)
    assert pace.underruns == 1
    assert pace.unplayed_seconds == pytest.approx(1.0)


def test_waiting_ends_when_the_answer_does() -> None:
    async def scenario() -> None:
        pace, ended = Pace(), asyncio.Event()
        pace.sent(60.0)
        asyncio.get_running_loop().call_later(0.01, ended.set)
        await asyncio.wait_for(pace.wait(ended), 5)

    asyncio.run(scenario())
