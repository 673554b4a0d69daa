"""The learning rate over a run, and the moving average of the weights."""

import pytest
import torch

from ttt_ref.train.config import ScheduleSection
from ttt_ref.train.ema import WeightAverage
from ttt_ref.train.schedule import Schedule


def test_schedule_by_steps_and_by_minutes() -> None:
    by_steps = Schedule(1.0, ScheduleSection(max_steps=110, warmup_steps=10, min_lr_ratio=0.1))
    assert by_steps.rate(0, 0.0) == pytest.approx(0.1)
    assert by_steps.rate(10, 1e9) == pytest.approx(1.0)
    assert by_steps.rate(60, 0.0) == pytest.approx(0.55)
    assert by_steps.rate(110, 0.0) == pytest.approx(0.1)
    assert by_steps.finished(110, 0.0)
    assert not by_steps.finished(109, 1e9)
    by_time = Schedule(1.0, ScheduleSection(max_minutes=1.0, warmup_steps=0, min_lr_ratio=0.0))
    assert by_time.rate(5, 30.0) == pytest.approx(0.5)
    assert by_time.finished(5, 60.0)


def test_the_average_follows_and_the_weights_come_back() -> None:
    layer = torch.nn.Linear(2, 2)
    first = layer.weight.detach().clone()
    average = WeightAverage(layer, 0.999)
    layer.weight.data.add_(1.0)
    average.update()
    with average.applied():
        torch.testing.assert_close(layer.weight.detach(), first + 1.0 - 2.0 / 11.0)
    torch.testing.assert_close(layer.weight.detach(), first + 1.0)
    again = WeightAverage(layer, 0.999)
    again.load_tensors(average.tensors())
    assert again.updates == 1
    assert all(torch.equal(a, b) for a, b in zip(again.shadow, average.shadow, strict=True))
