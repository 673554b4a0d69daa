"""Losses and accuracies on held-out examples, with the same draws at every evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from ttt_ref.config import TokenLayout
from ttt_ref.losses import draw_noise
from ttt_ref.train import objective as columns
from ttt_ref.train.collate import Feed, make_feed, noise_of, pad
from ttt_ref.train.config import TrainConfig
from ttt_ref.train.objective import score
from ttt_ref.train.sampler import group_by_length
from ttt_ref.train.store import Example, Store


def figures(total: list[float]) -> dict[str, float]:
    """Name the statistics, averaged over processes; the loss weights made them averages already."""
    text, speech = max(1.0, total[columns.TEXT_COUNT]), max(1.0, total[columns.SPEECH_COUNT])
    return {
        "loss": total[columns.TEXT_LOSS] + total[columns.SPEECH_LOSS],
        "text_loss": total[columns.TEXT_LOSS],
        "speech_loss": total[columns.SPEECH_LOSS],
        "text_accuracy": total[columns.TEXT_RIGHT] / text,
        "speech_accuracy": total[columns.SPEECH_RIGHT] / speech,
        "speech_cross_entropy": total[columns.SPEECH_CE] / speech,
    }


class Evaluation:
    """One held-out file, cut into fixed batches."""

    def __init__(self, store: Store, config: TrainConfig, layout: TokenLayout) -> None:
        self.name = store.name
        self.config = config
        self.layout = layout
        limit = config.batch.max_length
        count = min(len(store), config.evaluation.max_examples)
        # Evenly spread over the file: it may be sorted by kind.
        chosen = [int(i) for i in np.linspace(0, len(store) - 1, count)]
        examples = [
            Example(e.ids[:limit], e.trained[:limit], e.prompt_length)
            for e in (store[i] for i in chosen)
        ]
        self.examples = len(examples)
        self.batches = group_by_length(examples, config.batch.tokens_per_batch, None)

    def _feeds(self, mode: str, process: int, processes: int) -> Iterator[Feed]:
        section = dataclasses.replace(
            self.config.objective, text_loss_weight=1.0, speech_loss_weight=1.0
        )
        generator = torch.Generator().manual_seed(self.config.seed)
        for examples in self.batches:
            batch = pad(examples, self.layout, section.prompt_lengths)
            noised = draw_noise(batch, self.layout, noise_of(section), generator, mode=mode)
            yield make_feed(batch, noised, self.layout, section, self.examples, process, processes)

    @torch.no_grad()
    def run(self, module: nn.Module, accelerator: Accelerator) -> dict[str, float]:
        """Measure. `clean_text_*` hears unmasked speech; all else sees the noise of training."""
        module.eval()
        result: dict[str, float] = {}
        for mode in ("diffusion", "ar"):
            total = torch.zeros(7, dtype=torch.float64, device=accelerator.device)
            for feed in self._feeds(mode, accelerator.process_index, accelerator.num_processes):
                _, statistics = score(module, feed.to(accelerator.device))
                total += statistics.double()
            summed = accelerator.reduce(total, reduction="mean")
            assert isinstance(summed, torch.Tensor)
            named = figures([float(value) for value in summed.cpu()])
            if mode == "ar":
                result["clean_text_loss"] = named["text_loss"]
                result["clean_text_accuracy"] = named["text_accuracy"]
            else:
                result |= named
        module.train()
        return result
