"""Whose step comes next."""

from __future__ import annotations

from ttt_runtime.server.fairness import Claim, pick


def test_small_work_and_cancelled_turns_go_first_in_order() -> None:
    silent, small, cancelled = Claim(0), Claim(2, small=True), Claim(1, cancelled=True)
    assert pick([silent, small, cancelled], silent) is cancelled
    assert pick([silent, small], silent) is small


def test_turns_reach_their_first_sound_in_order_before_any_goes_on() -> None:
    sounding, first, second = Claim(0, sounds_until=5.0), Claim(1), Claim(2)
    assert pick([sounding, second, first], sounding) is first
    assert pick([sounding, second, first], second) is first


def test_who_runs_dry_first_goes_on_and_small_differences_change_nothing() -> None:
    here, there = Claim(0, sounds_until=5.0), Claim(1, sounds_until=4.8)
    assert pick([here, there], here) is here
    there.sounds_until = 4.4
    assert pick([here, there], here) is there
    assert pick([here, there], None) is there


def test_sound_adds_to_what_is_left_and_never_to_the_past() -> None:
    claim = Claim(0)
    claim.sounded(10.0, 1.0)
    claim.sounded(10.5, 1.0)
    assert claim.sounds_until == 12.0
    claim.sounded(20.0, 1.0)
    assert claim.sounds_until == 21.0


def simulate(turns: int, cost_s: float, sound_s: float, blocks: int) -> list[float]:
    """Return when each of several turns that began together had its first sound."""
    now, claims = 0.0, [Claim(number) for number in range(turns)]
    left = dict.fromkeys(range(turns), blocks)
    first: dict[int, float] = {}
    current: Claim | None = None
    while claims:
        current = pick(claims, current)
        now += cost_s
        current.sounded(now, sound_s)
        first.setdefault(current.number, now)
        left[current.number] -= 1
        if not left[current.number]:
            claims.remove(current)
    return [first[number] for number in range(turns)]


def test_eight_turns_at_once_wait_for_first_blocks_only() -> None:
    """Whole answers one after the other would keep the last waiting for all of them."""
    assert max(simulate(8, 0.04, 1.0, 10)) < 8 * 0.04 + 1e-6
