"""Solve the flow's differential equation from noise (t = 0) to mel (t = 1).

The released decoder takes ten Euler steps on a cosine schedule. Other rules reach the same mel
with fewer evaluations of the estimator; all share one interface.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ttt_ref.errors import ConfigError

Velocity = Callable[[Tensor, Tensor], Tensor]  # (x [B, 80, F], t []) -> [B, 80, F]

SOLVERS = ("euler", "midpoint", "heun", "ab2")
EVALUATIONS_PER_STEP = {"euler": 1, "midpoint": 2, "heun": 2, "ab2": 1}


def schedule(steps: int) -> Tensor:
    """Return the times of the cosine schedule, float32 [steps + 1], from 0 to 1."""
    return 1 - torch.cos(torch.linspace(0, 1, steps + 1) * 0.5 * torch.pi)


def check_solver(solver: str, steps: int) -> None:
    """Raise ConfigError for an unknown solver or a step count outside 1..100."""
    if solver not in SOLVERS:
        raise ConfigError(f"solver {solver!r} is unknown; expected one of {', '.join(SOLVERS)}")
    if not 1 <= steps <= 100:
        raise ConfigError(f"{steps} solver steps; expected 1 to 100")


def solve(velocity: Velocity, noise: Tensor, steps: int = 10, solver: str = "euler") -> Tensor:
    """Integrate.

    Args:
        velocity: guided velocity at a state and a time.
        noise: x(0), [B, 80, F].
        steps: steps on the cosine schedule.
        solver: `euler` (released), `midpoint`, `heun` (two evaluations a step) or `ab2`
            (Adams-Bashforth: one evaluation a step and the previous one).

    Returns:
        x(1), [B, 80, F].
    """
    check_solver(solver, steps)
    times = schedule(steps)
    t, dt = times[0], times[1] - times[0]
    x = noise
    previous: tuple[Tensor, Tensor] | None = None  # velocity and step size before this one
    for step in range(1, steps + 1):
        v = velocity(x, t)
        if solver == "midpoint":
            x = x + dt * velocity(x + 0.5 * dt * v, t + 0.5 * dt)
        elif solver == "heun":
            x = x + 0.5 * dt * (v + velocity(x + dt * v, t + dt))
        elif solver == "ab2" and previous is not None:
            ratio = 0.5 * dt / previous[1]
            x = x + dt * ((1 + ratio) * v - ratio * previous[0])
        else:
            x = x + dt * v
        previous = v, dt
        # Upstream accumulates t and derives the next dt from it; float32 rounding included.
        t = t + dt
        if step < steps:
            dt = times[step + 1] - t
    return x


def mel_distance(a: Tensor, b: Tensor) -> float:
    """Return the root mean square difference of two log-mels in dB."""
    return float((a - b).square().mean().sqrt()) * 20 / math.log(10)
