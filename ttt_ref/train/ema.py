"""A moving average of the weights, held beside the model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


class WeightAverage:
    """Exponential moving average of all parameters; works on shards as well (FSDP).

    The decay warms up as `min(decay, (1 + n) / (10 + n))`, so that the random start is forgotten
    quickly in a short run.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.shadow = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights of this step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.shadow, [p.detach() for p in self.parameters], 1.0 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model holds the averaged weights; afterwards its own again."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, average in zip(self.parameters, self.shadow, strict=True):
            own = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(own)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Averages and the update count, for the checkpoint."""
        own = {f"{i:05d}": _local(average).contiguous() for i, average in enumerate(self.shadow)}
        return {"updates": torch.tensor(self.updates), **own}

    @torch.no_grad()
    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take over what `tensors` gave. Errors: KeyError, RuntimeError if it does not fit."""
        self.updates = int(tensors["updates"])
        for i, average in enumerate(self.shadow):
            _local(average).copy_(tensors[f"{i:05d}"])


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a sharded tensor; any other tensor as it is."""
    to_local = getattr(tensor, "to_local", None)
    return to_local() if to_local is not None else tensor
