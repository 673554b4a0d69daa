"""Augmentation of log-mel features: formants moved, stripes hidden."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ttt_ref.codec.builtin.config import TokenizerConfig
from ttt_ref.codec.builtin.features import hz_to_mel, mel_to_hz


def warp_frequency(mel: Tensor, factors: Tensor, config: TokenizerConfig) -> Tensor:
    """Move formants: mel [B, F, bins] is read at ``factor`` [B] times each bin's frequency."""
    top = hz_to_mel(config.sample_rate_hz / 2)
    low = hz_to_mel(40.0)
    centres = low + (top - low) * (torch.arange(config.mel_bins) + 1) / (config.mel_bins + 1)
    hz = torch.tensor([mel_to_hz(float(m)) for m in centres])
    wanted = 2595.0 * torch.log10(1.0 + factors[:, None] * hz / 700.0)
    place = ((wanted - low) / (top - low) * (config.mel_bins + 1) - 1).clamp(
        0, config.mel_bins - 1.001
    )
    index = place.long()
    share = (place - index)[:, None, :]
    index = index[:, None, :].expand(-1, mel.shape[1], -1)
    return mel.gather(2, index) * (1 - share) + mel.gather(2, index + 1) * share


def mask_spectrum(mel: Tensor, rng: np.random.Generator, share: float) -> Tensor:
    """SpecAugment: hide two frequency stripes and two short times in a share of the rows."""
    mel = mel.clone()
    for row in range(mel.shape[0]):
        if rng.random() >= share:
            continue
        for _ in range(2):
            width, at = int(rng.integers(1, 13)), int(rng.integers(mel.shape[2] - 12))
            mel[row, :, at : at + width] = 0.0
            width, at = int(rng.integers(1, 16)), int(rng.integers(max(1, mel.shape[1] - 16)))
            mel[row, at : at + width] = 0.0
    return mel
