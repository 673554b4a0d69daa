"""The training loss: text cross-entropy plus masked speech cross-entropy weighted by 1/p."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttt_ref.batch import IGNORE, Batch
from ttt_ref.config import TokenLayout
from ttt_ref.errors import ConfigError
from ttt_ref.mask import attend_mask
from ttt_ref.noise import NoiseConfig, Noised, add_noise, draw_path

MODES = ("ar", "diffusion")


class Losses(NamedTuple):
    """Losses of one batch; ``loss`` carries the gradient.

    Attributes:
        loss: text + speech, scaled by ``num_items_in_batch`` if given.
        text: unscaled text loss, detached.
        speech: unscaled speech loss, detached; 0 on the clean path.
        path: ``"ar"`` (clean speech) or ``"diffusion"``.
        masked_tokens: how many tokens were masked.
    """

    loss: Tensor
    text: Tensor
    speech: Tensor
    path: str
    masked_tokens: int


def training_loss(
    model: nn.Module,
    layout: TokenLayout,
    batch: Batch,
    noise: NoiseConfig,
    generator: torch.Generator | None = None,
    *,
    mode: str | None = None,
    num_items_in_batch: int | None = None,
) -> Losses:
    """Draw the noise for a batch and return its loss: one training forward as released.

    Args:
        model: a :class:`ttt_ref.model.TttModel`, bare or wrapped (DDP, FSDP, Accelerate): only
            its forward is called.
        layout: token ids.
        batch: padded on the right, on the model's device.
        noise: probabilities of the noise process.
        generator: source of all draws; None is torch's global one.
        mode: ``"ar"`` or ``"diffusion"`` fixes the path without a draw. None draws it in training
            and is ``"ar"`` in evaluation.
        num_items_in_batch: a positive int n scales the loss by B / n.
    """
    noised = draw_noise(batch, layout, noise, generator, mode=mode, training=model.training)
    return batch_loss(model, layout, batch, noised, num_items_in_batch=num_items_in_batch)


def draw_noise(
    batch: Batch,
    layout: TokenLayout,
    noise: NoiseConfig,
    generator: torch.Generator | None = None,
    *,
    mode: str | None = None,
    training: bool = True,
) -> Noised | None:
    """Draw path and noise; None stands for the clean path. Arguments as for training_loss.

    Apart from :func:`batch_loss`, so that several processes can draw for the whole batch with one
    generator and then take their rows.
    """
    if mode is None:
        mode = draw_path(noise, generator) if training else "ar"
    if mode not in MODES:
        raise ConfigError(f"training mode {mode!r}; expected one of {', '.join(MODES)}")
    return add_noise(batch, layout, noise, generator) if mode == "diffusion" else None


def batch_loss(
    model: nn.Module,
    layout: TokenLayout,
    batch: Batch,
    noised: Noised | None,
    *,
    num_items_in_batch: int | None = None,
) -> Losses:
    """Return the loss of a batch under given noise (None: clean path, text loss only).

    The mask is built from the clean ids, the model is fed the noisy ones, and logits are computed
    only where a loss is read: text is read one position before its label, speech at the masked
    position itself.
    """
    labels = batch.labels
    next_labels = torch.full_like(labels, IGNORE)  # what position t has to predict as text
    next_labels[:, :-1] = labels[:, 1:]
    reads_text = (next_labels != IGNORE) & (next_labels < layout.audio_start)  # [B, L]
    if noised is None:
        fed, reads_speech = batch.ids, torch.zeros_like(reads_text)
    else:
        # A masked user token (released multi-turn rule) has no label: it costs nothing.
        fed, reads_speech = noised.ids, noised.masked & (labels != IGNORE)
    read = reads_text | reads_speech
    attend = attend_mask(batch.ids, layout.audio_start, batch.key_mask)
    logits = model(fed, attend, read).float()  # [N, V], N = positions read

    rows = batch.ids.shape[0]
    row_of = torch.arange(rows, device=labels.device)[:, None].expand_as(labels)
    text = _text_loss(logits, reads_text, read, next_labels, row_of)
    if noised is None:
        speech = torch.zeros_like(text)
    else:
        speech = _speech_loss(logits, reads_speech, read, labels, row_of, noised)
    loss = text + speech
    # Only a positive int counts, as released; the Hugging Face trainer's tensor does nothing there.
    if isinstance(num_items_in_batch, int) and num_items_in_batch > 0:
        loss = loss * (rows / num_items_in_batch)
    masked_tokens = 0 if noised is None else int(noised.masked.sum())
    path = "ar" if noised is None else "diffusion"
    return Losses(loss, text.detach(), speech.detach(), path, masked_tokens)


def _text_loss(
    logits: Tensor, reads_text: Tensor, read: Tensor, next_labels: Tensor, row_of: Tensor
) -> Tensor:
    """Mean over each row's text tokens, then over all rows; a row without text counts as 0."""
    rows = reads_text.shape[0]
    token_loss = F.cross_entropy(
        logits[reads_text[read]], next_labels[reads_text], reduction="none"
    )
    counts = reads_text.sum(dim=1).clamp(min=1)
    return (token_loss / counts[row_of[reads_text]]).sum() / rows


def _speech_loss(
    logits: Tensor,
    reads_speech: Tensor,
    read: Tensor,
    labels: Tensor,
    row_of: Tensor,
    noised: Noised,
) -> Tensor:
    """Cross-entropy / p_mask / answer tokens of the row, summed, divided by the batch size."""
    rows = reads_speech.shape[0]
    token_loss = F.cross_entropy(logits[reads_speech[read]], labels[reads_speech], reduction="none")
    weight = 1.0 / (noised.mask_prob * noised.answer_tokens)  # [B]
    return (token_loss * weight[row_of[reads_speech]]).sum() / rows
