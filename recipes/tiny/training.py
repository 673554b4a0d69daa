"""What both codec trainings share: time budget, schedule, atomic checkpoints, logs.

A training step is a pure function of (seed, step) and the state, so a resumed run equals an
uninterrupted one; only the share of the budget that has passed is taken from the clock, and the
elapsed training time is stored.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ttt_ref.errors import CheckpointError, ConfigError

STATE_NAME = "state.pt"


@dataclass(frozen=True)
class BudgetConfig:
    """How long a training runs and how it is kept."""

    minutes: float = 30.0
    steps: int = 0
    learning_rate: float = 1.5e-3
    final_share: float = 0.01
    warmup_steps: int = 200
    clip: float = 2.0
    save_every_s: float = 120.0
    threads: int = 2
    bf16: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.minutes <= 0 and self.steps <= 0:
            raise ConfigError(f"minutes is {self.minutes}, steps {self.steps}; give one above 0")


def read_state(file: Path) -> dict[str, Any]:
    """Read the state of a training; nothing in it is executed.

    Raises:
        CheckpointError: the file is broken, or is not the state of a training.
    """
    try:
        state = torch.load(file, weights_only=True)
    except Exception as error:  # a damaged pickle fails in any way: IndexError, struct.error, ...
        raise CheckpointError(
            f"{file} is no state of a training or is damaged; choose another folder"
        ) from error
    kinds = {"facts": dict, "modules": dict, "step": int}
    if not isinstance(state, dict) or not all(
        isinstance(state.get(name), kind) for name, kind in kinds.items()
    ):
        raise CheckpointError(f"{file} is not the state of a training; choose another folder")
    return state


@contextmanager
def _told_if_unfit(file: Path) -> Iterator[None]:
    """Say in one line that what a state holds does not fit the modules or the optimizers."""
    try:
        yield
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{file} is of a training of another shape or is damaged; choose another folder"
        ) from error


def stored_facts(out: Path) -> dict[str, Any]:
    """The facts of the training that ``out`` holds; empty if there is none."""
    file = out / STATE_NAME
    if not file.exists():
        return {}
    facts: dict[str, Any] = read_state(file)["facts"]
    return facts


class TrainingRun:
    """Modules, optimizer, clock and files of one training in the folder ``out``.

    ``facts`` must be the same when it is resumed (shapes and labels); data, recipe and budget may
    change.
    """

    def __init__(
        self,
        out: Path,
        modules: dict[str, nn.Module],
        optimizers: Sequence[torch.optim.Optimizer],
        budget: BudgetConfig,
        facts: dict[str, Any],
    ):
        self.out, self.modules, self.optimizers, self.budget = out, modules, optimizers, budget
        self.facts = facts
        self.step, self.elapsed_s = 0, 0.0
        out.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(budget.threads)
        self._sums: dict[str, float] = {}
        self._count = 0
        self._last_save = self._last_tick = self._last_line = time.monotonic()
        self._line_steps = 0

    @property
    def state_file(self) -> Path:
        """The resumable state; weights, optimizer, step, elapsed seconds."""
        return self.out / STATE_NAME

    def resume(self) -> bool:
        """Load the state if there is one; True if so."""
        if not self.state_file.exists():
            return False
        state = read_state(self.state_file)
        self._check_facts(self.state_file, state["facts"])
        self._load_weights(self.state_file, state)
        stored = state.get("optimizers", [])  # an older version kept one, under another name
        if not isinstance(stored, list) or len(stored) != len(self.optimizers):
            raise CheckpointError(
                f"{self.state_file} was made with another optimizer or by an older version; choose "
                "another --out or repeat the settings"
            )
        with _told_if_unfit(self.state_file):
            for optimizer, mine in zip(self.optimizers, stored, strict=True):
                optimizer.load_state_dict(mine)
            self.step, self.elapsed_s = state["step"], float(state["elapsed_s"])
        return True

    def start_from(self, folder: Path) -> None:
        """Take the weights of another training, nothing else of it.

        Raises:
            CheckpointError: no training there, or one of other shapes or labels.
        """
        file = folder / STATE_NAME
        if not file.exists():
            raise CheckpointError(f"{folder} holds no {STATE_NAME}; give the --out of a training")
        state = read_state(file)
        self._check_facts(file, state["facts"])
        self._load_weights(file, state)

    def _check_facts(self, file: Path, stored: dict[str, Any]) -> None:
        for name, value in self.facts.items():
            if stored.get(name) != value:
                raise CheckpointError(
                    f"{file} was made with another {name} ({stored.get(name)}); "
                    "choose another folder or repeat the settings"
                )

    def _load_weights(self, file: Path, state: dict[str, Any]) -> None:
        with _told_if_unfit(file):
            for name, module in self.modules.items():
                module.load_state_dict(state["modules"][name])

    def save(self) -> None:
        """Write the state into a temporary file, then rename it."""
        state = {
            "modules": {name: m.state_dict() for name, m in self.modules.items()},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "facts": self.facts,
        }
        temporary = self.state_file.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.state_file)
        self._last_save = time.monotonic()

    @property
    def progress(self) -> float:
        """Share of the budget that has passed, 0..1."""
        if self.budget.steps:
            return min(1.0, self.step / self.budget.steps)
        return min(1.0, self.elapsed_s / (60.0 * self.budget.minutes))

    @property
    def finished(self) -> bool:
        """Whether the budget is spent."""
        return self.progress >= 1.0

    def begin_step(self) -> None:
        """Seed the step and set the learning rate (warm-up, then cosine over the budget)."""
        torch.manual_seed(self.budget.seed * 1_000_003 + self.step)
        warm = min(1.0, (self.step + 1) / max(1, self.budget.warmup_steps))
        low = self.budget.final_share
        cosine = low + (1.0 - low) * 0.5 * (1.0 + math.cos(math.pi * self.progress))
        for group in self._groups():
            group["lr"] = self.budget.learning_rate * warm * cosine

    def apply(self, loss: torch.Tensor) -> None:
        """Backward pass, clipping and optimizer step; a step that is not finite is skipped."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = [p for group in self._groups() for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.budget.clip)
        if bool(torch.isfinite(norm)):
            for optimizer in self.optimizers:
                optimizer.step()

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def end_step(self, values: dict[str, float], every: int = 50) -> None:
        """Advance the clock; log the mean of ``values`` every so many steps; save when due."""
        self.step += 1
        now = time.monotonic()
        # A pause of the machine (suspended container) must not eat the budget.
        self.elapsed_s += min(now - self._last_tick, 30.0)
        self._last_tick = now
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        if self.step % every == 0:
            means = {k: round(v / self._count, 4) for k, v in self._sums.items()}
            rate = (now - self._last_line) / self._count
            self._sums, self._count, self._last_line = {}, 0, now
            self.log({"step": self.step, "minutes": round(self.elapsed_s / 60, 2), **means})
            line = "  ".join(f"{k} {v:.3f}" for k, v in means.items())
            print(
                f"step {self.step}  {self.elapsed_s / 60:.1f} min  {100 * self.progress:.0f} %  "
                f"{rate:.3f} s/step  {line}",
                flush=True,
            )
        if now - self._last_save >= self.budget.save_every_s:
            self.save()

    def restart_clock(self) -> None:
        """Leave out time spent in evaluation."""
        self._last_tick = time.monotonic()

    def log(self, record: dict[str, Any]) -> None:
        """Append one JSON line to ``log.jsonl``."""
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
