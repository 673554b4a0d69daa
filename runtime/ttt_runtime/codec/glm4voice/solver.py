"""Solve the flow's differential equation from noise (t = 0) to mel (t = 1).

The released decoder takes ten Euler steps on a cosine schedule; `midpoint` and `heun` spend two
evaluations of the graph a step, `ab2` one and remembers the one before.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Velocity = Callable[[Float32, np.float32], Float32]  # (x [1, 80, F], t) -> [1, 80, F]

EVALUATIONS_PER_STEP = {"euler": 1, "midpoint": 2, "heun": 2, "ab2": 1}


def schedule(steps: int) -> Float32:
    """Return the times of the cosine schedule [steps + 1], from 0 to 1."""
    even = np.linspace(0, 1, steps + 1, dtype=np.float32)
    times: Float32 = (1 - np.cos(even * np.float32(0.5 * np.pi))).astype(np.float32)
    return times


def solve(velocity: Velocity, noise: Float32, steps: int, solver: str) -> Float32:
    """Integrate from the noise [1, 80, F] over `steps` steps; returns x(1) [1, 80, F]."""
    times = schedule(steps)
    t, dt = times[0], times[1] - times[0]
    half = np.float32(0.5)
    x = noise
    before: tuple[Float32, np.float32] | None = None
    for step in range(1, steps + 1):
        v = velocity(x, t)
        if solver == "midpoint":
            x = x + dt * velocity(x + half * dt * v, t + half * dt)
        elif solver == "heun":
            x = x + half * dt * (v + velocity(x + dt * v, t + dt))
        elif solver == "ab2" and before is not None:
            ratio = half * dt / before[1]
            x = x + dt * ((1 + ratio) * v - ratio * before[0])
        else:
            x = x + dt * v
        before = v, dt
        # The released loop adds dt up and takes the next dt from the sum; so do we.
        t = t + dt
        if step < steps:
            dt = times[step + 1] - t
    return x
