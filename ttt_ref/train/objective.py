"""The module that is trained: the model together with its losses, so that any wrapper fits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttt_ref.mask import attend_mask
from ttt_ref.model import TttModel
from ttt_ref.train.collate import Feed
from ttt_ref.train.fast import scored_hidden

# Columns of the statistics row that the forward returns.
TEXT_LOSS, SPEECH_LOSS, TEXT_RIGHT, TEXT_COUNT, SPEECH_RIGHT, SPEECH_COUNT, SPEECH_CE = range(7)


class Objective(nn.Module):
    """Forward of model and losses in one module: DDP, FSDP and DeepSpeed wrap this one."""

    def __init__(self, model: TttModel, audio_start: int, by_rows: bool = False) -> None:
        """Choose the forward: `by_rows` is the faster one for a CPU, not for layer shards."""
        super().__init__()
        self.by_rows = by_rows
        self.model = model
        self.audio_start = audio_start

    def forward(
        self,
        ids: Tensor,
        key_mask: Tensor,
        rows: Tensor,
        targets: Tensor,
        weights: Tensor,
        text_targets: int,
    ) -> tuple[Tensor, Tensor]:
        """Return the weighted loss and the statistics float32 [7] of one batch.

        The output layer is computed for the N scored rows only. Shapes as in
        :class:`ttt_ref.train.collate.Feed`.
        """
        attend = attend_mask(ids, self.audio_start, key_mask)
        if self.by_rows:
            picked = scored_hidden(self.model, ids, attend, rows)  # [N, hidden]
        else:
            hidden = self.model.hidden(ids, attend)  # [b, L, hidden]
            picked = hidden.reshape(-1, hidden.shape[-1]).index_select(0, rows)
        logits = self.model.logits(picked)  # [N, V]
        entropy = F.cross_entropy(logits.float(), targets, reduction="none")  # [N]
        weighted = entropy * weights
        with torch.no_grad():
            right = (logits.argmax(-1) == targets).float()
            is_text = torch.arange(len(targets), device=ids.device) < text_targets
            none = torch.zeros((), device=ids.device)
            statistics = torch.stack(
                (
                    torch.where(is_text, weighted, none).sum(),
                    torch.where(is_text, none, weighted).sum(),
                    torch.where(is_text, right, none).sum(),
                    is_text.sum().float(),
                    torch.where(is_text, none, right).sum(),
                    (~is_text).sum().float(),
                    torch.where(is_text, none, entropy).sum(),
                )
            )
        return weighted.sum(), statistics


def score(module: nn.Module, feed: Feed) -> tuple[Tensor, Tensor]:
    """Call the (wrapped) objective on a feed."""
    result: tuple[Tensor, Tensor] = module(
        feed.ids, feed.key_mask, feed.rows, feed.targets, feed.weights, feed.text_targets
    )
    return result
