"""The deadline schedule under a simulated clock: no avoidable gap, no pass given away."""

from __future__ import annotations

import dataclasses

import pytest

from tests.runtime.decode.test_engine import cases
from tests.runtime.toy import ToyRunner, toy_layout
from ttt_ref.config import GenerationConfig
from ttt_ref.errors import ConfigError
from ttt_runtime.decode.approximations import EXACT
from ttt_runtime.decode.deadline import DeadlineSchedule
from ttt_runtime.decode.engine import SpeechEngine
from ttt_runtime.decode.scheduler import State, Step

TOKENS, MOST = 26, 10
LAYOUT = toy_layout()


class Machine:
    """Runs blocks of one answer in simulated time; all costs in seconds."""

    def __init__(self, *, one_pass: float, gap: float, decode: float = 0.02) -> None:
        self.now = 0.0
        self.one_pass, self.gap, self.decode = one_pass, gap, decode
        self.schedule = DeadlineSchedule(12.5, clock=lambda: self.now)

    def spend(self, state: State, seconds: float, block_step: int = 0) -> None:
        begin, self.now = self.now, self.now + seconds
        step = Step(state, 0, 1, block_step=block_step)
        self.schedule.observe(step, round(begin * 1e9), round(self.now * 1e9))

    def run(self, blocks: int, slow: dict[int, float] | None = None) -> list[int]:
        """Return the passes of each block; in block b a pass takes `slow[b]` times as long."""
        passes = []
        for block in range(blocks):
            self.spend(State.TEXT, self.gap)
            planned = self.schedule.plan(TOKENS, MOST)
            passes.append(planned)
            for number in range(planned):
                self.spend(State.BLOCK, self.one_pass * (slow or {}).get(block, 1.0), number)
            self.now += self.decode
            self.schedule.decoded(self.decode)
            self.schedule.queue(TOKENS / 12.5)
        return passes


def test_with_time_every_pass_is_run() -> None:
    machine = Machine(one_pass=0.05, gap=0.3)
    assert machine.run(20) == [MOST] * 20
    assert machine.schedule.underruns == 0


def test_a_machine_too_slow_for_all_passes_runs_fewer_and_never_starves() -> None:
    machine = Machine(one_pass=0.3, gap=0.5)  # all passes: 3.5 s for 2.08 s of sound
    passes = machine.run(40)
    assert machine.schedule.underruns == 0
    assert passes[0] == MOST  # nothing plays yet
    # Nothing is given away: the time of playing goes into passes, but for one pass of rounding,
    # the reserve and the decoding.
    best = (TOKENS / 12.5 - 0.5 - 0.02) / 0.3
    assert best - 1 <= sum(passes[5:]) / len(passes[5:]) <= best
    assert min(passes) >= 1


def test_fixed_passes_on_the_same_machine_would_starve() -> None:
    """The scenario above is one in which the schedule matters."""
    machine = Machine(one_pass=0.3, gap=0.5)
    machine.schedule.plan = lambda tokens, most: most  # type: ignore[method-assign]
    machine.run(40)
    assert machine.schedule.underruns > 30
    assert machine.schedule.starved_seconds > 30


@pytest.mark.parametrize("one_pass", [0.05, 0.1, 0.2, 0.4, 0.7, 1.0])
@pytest.mark.parametrize("gap", [0.0, 0.2, 0.6, 0.9])
def test_no_gap_wherever_one_pass_a_block_avoids_it(one_pass: float, gap: float) -> None:
    machine = Machine(one_pass=one_pass, gap=gap)
    machine.run(60)
    assert gap + one_pass + 0.02 + 0.05 <= TOKENS / 12.5  # one pass a block would do
    assert machine.schedule.underruns == 0


def test_a_machine_slower_than_sound_runs_one_pass_and_counts_its_gaps() -> None:
    machine = Machine(one_pass=2.0, gap=0.3)
    passes = machine.run(10)
    assert passes[1:] == [1] * 9
    assert machine.schedule.underruns > 0
    late = 0.3 + 2.0 + 0.02 - TOKENS / 12.5
    assert machine.schedule.starved_seconds == pytest.approx(9 * late, abs=1e-6)


def test_after_a_stall_it_recovers() -> None:
    machine = Machine(one_pass=0.15, gap=0.2)
    passes = machine.run(40, slow={10: 4.0})
    assert min(passes[11:13]) < passes[9]  # careful after it
    assert passes[30:] == passes[5:10] * 2 or min(passes[30:]) >= max(passes[5:10]) - 1


def test_queued_sound_runs_out_and_a_wrong_rate_is_refused() -> None:
    machine = Machine(one_pass=0.1, gap=0.0)
    assert machine.schedule.queued_seconds == 0.0
    machine.schedule.queue(1.0)
    machine.now = 0.4
    assert machine.schedule.queued_seconds == pytest.approx(0.6)
    machine.now = 9.0
    assert machine.schedule.queued_seconds == 0.0
    with pytest.raises(ConfigError, match="deadline schedule of 0"):
        DeadlineSchedule(0)


def test_the_engine_runs_as_many_passes_as_planned() -> None:
    fast = dataclasses.replace(EXACT, deadline=True)
    config = GenerationConfig(
        max_gen_len=40, diffusion_steps=16, diffusion_gen_length=16, block_length=4
    )
    checked = 0
    for model, prompt, _ in cases(12):
        engine = SpeechEngine(ToyRunner(model), LAYOUT, exactness="fast", fast=fast)
        plans: list[tuple[int, int]] = []

        class Plan(DeadlineSchedule):
            def plan(self, block_tokens: int, most: int, plans: list = plans) -> int:  # type: ignore[type-arg]
                plans.append((block_tokens, most))
                return (0, 2, 3, 99)[len(plans) % 4]

        steps: list[Step] = []
        for _ in engine.generate(
            prompt,
            config,
            observer=lambda step, *_, steps=steps: steps.append(step),
            plan_passes=Plan(12.5).plan,
        ):
            pass
        blocks = [s for s in steps if s.state is State.BLOCK]
        starts = sorted({s.block_start for s in blocks})
        passes = [sum(s.block_start == start for s in blocks) for start in starts]
        assert all(plan == (4, 4) for plan in plans)
        if len(starts) == len(plans):  # no block cut away and begun again at the same place
            assert passes == [(1, 2, 3, 4)[n % 4] for n in range(1, len(plans) + 1)]
            checked += len(plans) > 3
    assert checked > 2


def test_a_deadline_needs_its_option() -> None:
    model, prompt, config = cases(1)[0]
    engine = SpeechEngine(ToyRunner(model), LAYOUT)
    with pytest.raises(ConfigError, match="deadline"):
        engine.generate(prompt, config, plan_passes=DeadlineSchedule(12.5).plan)
