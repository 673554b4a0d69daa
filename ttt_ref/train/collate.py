"""From examples to what one process feeds: padding, noise, and the weight of every target.

The losses are sums over target rows, so all averaging (per sample, over the batch, over
accumulated batches, the 1/p_mask of the masked positions) is folded into one weight per target
here, and the model computes its output layer for these rows only. `ttt_ref.losses` is the same
mathematics written plainly; a test holds the two together.

Axes: B rows of the global batch, b rows of this process, L sequence, N targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ttt_ref.batch import IGNORE, Batch
from ttt_ref.config import TokenLayout
from ttt_ref.noise import NoiseConfig, Noised
from ttt_ref.train.config import ObjectiveSection
from ttt_ref.train.store import Example


@dataclass(frozen=True)
class Feed:
    """What one process feeds to the model in one micro-batch.

    Attributes:
        ids: ids as fed, masked where noise fell, int64 [b, L].
        key_mask: False hides a padding key, bool [b, L].
        rows: flat positions in [b * L] whose hidden states are scored; text first, int64 [N].
        targets: the id to predict at each of them, int64 [N].
        weights: factor of each cross-entropy in the loss, float32 [N].
        text_targets: how many of N are text.
    """

    ids: Tensor
    key_mask: Tensor
    rows: Tensor
    targets: Tensor
    weights: Tensor
    text_targets: int

    def to(self, device: torch.device) -> Feed:
        """The same on a device."""
        return Feed(
            self.ids.to(device),
            self.key_mask.to(device),
            self.rows.to(device),
            self.targets.to(device),
            self.weights.to(device),
            self.text_targets,
        )


def noise_of(section: ObjectiveSection) -> NoiseConfig:
    """The probabilities of the noise process."""
    return NoiseConfig(section.unmasked_audio_prob, section.prefix_preservation_ratio)


def pad(examples: Sequence[Example], layout: TokenLayout, prompt_lengths: str) -> Batch:
    """Stack examples and find what may be masked.

    `prompt_lengths` "released": all audio behind the summed length of system and user turns, which
    is right for one turn only. "corrected": the audio of the assistant's turns.
    """
    length = max(len(example.ids) for example in examples)
    ids = np.full((len(examples), length), layout.pad_id, np.int64)
    trained = np.zeros(ids.shape, bool)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = example.ids
        trained[row, : len(example.ids)] = example.trained
    if prompt_lengths == "released":
        prompts = np.asarray([example.prompt_length for example in examples])
        maskable = np.arange(length)[None, :] >= prompts[:, None]
    else:
        maskable = trained
    return Batch(
        ids=torch.from_numpy(ids),
        labels=torch.from_numpy(np.where(trained, ids, IGNORE)),
        key_mask=torch.from_numpy(ids != layout.pad_id),
        maskable=torch.from_numpy(maskable),
    )


def make_feed(
    batch: Batch,
    noised: Noised | None,
    layout: TokenLayout,
    section: ObjectiveSection,
    divisor: float,
    process: int = 0,
    processes: int = 1,
) -> Feed:
    """Weigh the targets and take this process's rows.

    `divisor` is the number of samples that the loss is averaged over. Each process returns its own
    part of the sum times the number of processes, since gradients are averaged over them.
    """
    count, length = batch.ids.shape
    own = slice(process, None, processes)
    scale = processes / divisor
    if process >= count:  # fewer rows than processes: take part with a row that counts nothing
        own, scale = slice(0, 1), 0.0
    ids, labels = batch.ids[own], batch.labels[own]
    following = torch.full_like(labels, IGNORE)
    following[:, :-1] = labels[:, 1:]  # position t predicts the text id at t + 1
    is_text = (following != IGNORE) & (following < layout.audio_start)
    if noised is not None and section.masked_predictors == "corrected":
        # The text behind a span is read at its end tag. Where that is masked, the same logits
        # have to name the tag: as released, the two targets fight and spans do not end.
        is_text &= ~(noised.masked[own] & (labels != IGNORE))
    text_weight = section.text_loss_weight * scale / is_text.sum(1).clamp(min=1)  # [b]
    text_rows = is_text.reshape(-1).nonzero().squeeze(1)
    rows, targets = [text_rows], [following.reshape(-1)[text_rows]]
    weights = [text_weight[text_rows // length]]
    if noised is not None:
        masked = noised.masked[own] & (labels != IGNORE)
        probability, answer_tokens = noised.mask_prob[own], noised.answer_tokens[own]
        speech_weight = section.speech_loss_weight * scale / (probability * answer_tokens)  # [b]
        speech_rows = masked.reshape(-1).nonzero().squeeze(1)
        rows.append(speech_rows)
        targets.append(labels.reshape(-1)[speech_rows])
        weights.append(speech_weight[speech_rows // length])
        ids = noised.ids[own]
    return Feed(
        ids=ids,
        key_mask=batch.key_mask[own],
        rows=torch.cat(rows),
        targets=torch.cat(targets),
        weights=torch.cat(weights).float(),
        text_targets=len(text_rows),
    )
