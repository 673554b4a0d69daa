"""Training examples and batches: plain containers and the collate function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

IGNORE = -100


@dataclass(frozen=True)
class Example:
    """One training example, unpadded; all lists have one entry per token.

    Attributes:
        ids: token ids.
        labels: the id where it is to be learnt, :data:`IGNORE` elsewhere; unshifted.
        maskable: True where a speech token may be masked (the audio side is tested later).
        prompt_length: tokens of system and user turns, as the released code counts them.
    """

    ids: list[int]
    labels: list[int]
    maskable: list[bool]
    prompt_length: int

    def cut(self, max_len: int) -> Example:
        """Return the first ``max_len`` tokens; the prompt length is not limited, as released."""
        return Example(
            self.ids[:max_len], self.labels[:max_len], self.maskable[:max_len], self.prompt_length
        )


class Batch(NamedTuple):
    """A right-padded batch.

    Attributes:
        ids: clean token ids, int64 [B, L].
        labels: labels, int64 [B, L]; IGNORE = -100; unshifted.
        key_mask: bool [B, L], False hides the position as a key (padding).
        maskable: bool [B, L], True where a speech token may be masked.
    """

    ids: Tensor
    labels: Tensor
    key_mask: Tensor
    maskable: Tensor

    def to(self, device: torch.device | str) -> Self:
        """Return the batch on another device."""
        return self._replace(**{name: t.to(device) for name, t in self._asdict().items()})

    def rows(self, selection: slice) -> Self:
        """Return some rows of the batch (views)."""
        return self._replace(**{name: t[selection] for name, t in self._asdict().items()})


def maskable_after_prompt(prompt_lengths: Tensor, length: int) -> Tensor:
    """Return bool [B, L], True at and after each row's prompt length [B] (the released rule)."""
    positions = torch.arange(length, device=prompt_lengths.device)
    return positions[None, :] >= prompt_lengths[:, None]


def collate(examples: Sequence[Example], pad_id: int, *, length: int | None = None) -> Batch:
    """Pad examples on the right into one batch.

    Padding is neutral to every loss, so the longest example decides the width unless ``length``
    is given (the released code pads everything to its maximum). As released, a pad id inside an
    example counts as padding too.

    Args:
        examples: at least one.
        pad_id: the padding token.
        length: width L; must not be smaller than the longest example.
    """
    width = max(len(example.ids) for example in examples) if length is None else length
    count = len(examples)
    ids = torch.full((count, width), pad_id, dtype=torch.long)
    labels = torch.full((count, width), IGNORE, dtype=torch.long)
    maskable = torch.zeros(count, width, dtype=torch.bool)
    for row, example in enumerate(examples):
        tokens = len(example.ids)
        ids[row, :tokens] = torch.tensor(example.ids, dtype=torch.long)
        labels[row, :tokens] = torch.tensor(example.labels, dtype=torch.long)
        maskable[row, :tokens] = torch.tensor(example.maskable, dtype=torch.bool)
    return Batch(ids, labels, ids != pad_id, maskable)
