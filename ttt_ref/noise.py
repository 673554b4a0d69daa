"""The absorbing noise of training: which speech tokens are masked, and with what probability.

Two training strategies live here. BANOM (batch-wise audio noise or none): a share of batches sees
clean speech and trains text only. PPM (prefix preservation): in a share of rows all spans before a
drawn one stay clean, as they are at inference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from ttt_ref.batch import Batch
from ttt_ref.config import TokenLayout
from ttt_ref.errors import ConfigError


@dataclass(frozen=True)
class NoiseConfig:
    """Probabilities of the noise process, under the released names.

    Attributes:
        unmasked_audio_prob: BANOM, share of batches left clean.
        prefix_preservation_ratio: PPM, share of rows that keep a prefix of spans clean.
        min_mask_prob: lowest masking probability; the weight 1/p stays finite.
    """

    unmasked_audio_prob: float = 0.1
    prefix_preservation_ratio: float = 0.3
    min_mask_prob: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("unmasked_audio_prob", "prefix_preservation_ratio", "min_mask_prob"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 <= value <= 1):
                raise ConfigError(f"noise: {name} must lie in 0..1, got {value!r}")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Take the probabilities that a checkpoint's config.json carries, defaults elsewhere."""
        names = ("unmasked_audio_prob", "prefix_preservation_ratio")
        return cls(**{name: config[name] for name in names if name in config})


class Noised(NamedTuple):
    """What the noise process drew for a batch.

    Attributes:
        ids: ids to feed, int64 [B, L]; the mask id at masked positions.
        masked: bool [B, L].
        mask_prob: masking probability of each row, float32 [B].
        answer_tokens: maskable positions of each row, at least 1, int64 [B].
    """

    ids: Tensor
    masked: Tensor
    mask_prob: Tensor
    answer_tokens: Tensor

    def rows(self, selection: slice) -> Self:
        """Return some rows (views)."""
        return self._replace(**{name: t[selection] for name, t in self._asdict().items()})


def draw_path(config: NoiseConfig, generator: torch.Generator | None = None) -> str:
    """Draw ``"diffusion"`` or ``"ar"`` (clean speech, text loss only): one draw for the batch."""
    draw = torch.rand(1, generator=generator, device=_device(generator)).item()
    return "diffusion" if draw > config.unmasked_audio_prob else "ar"


def add_noise(
    batch: Batch,
    layout: TokenLayout,
    config: NoiseConfig,
    generator: torch.Generator | None = None,
) -> Noised:
    """Mask speech tokens of the answers.

    Draws, in the released order: uniform [B] for prefix preservation; a span start per row that
    preserves (only if some row can); uniform [B] for the noise level; uniform [B, L] for the
    positions. If nothing in the whole batch is maskable, nothing is drawn at all.

    Args:
        batch: clean ids with ``maskable`` and ``key_mask``.
        layout: token ids.
        config: probabilities.
        generator: source of all draws; None is torch's global one. Draws are made on the
            generator's device, so that a CPU generator gives the same noise on every device.
    """
    rows, length = batch.ids.shape
    source, target = _device(generator), batch.ids.device
    is_audio = batch.ids >= layout.audio_start
    maskable = is_audio & batch.maskable & batch.key_mask
    if not bool(maskable.any()):
        ones = torch.ones(rows, device=target)
        return Noised(batch.ids, torch.zeros_like(maskable), ones, ones.long())

    preserve = torch.rand(rows, generator=generator, device=source).to(target)
    preserves = preserve < config.prefix_preservation_ratio
    starts = _span_starts(is_audio) & maskable
    preserves &= starts.any(dim=1)
    if bool(preserves.any()):
        weights = starts[preserves].to(device=source, dtype=torch.float32)
        weights = weights / weights.sum(dim=1, keepdim=True)
        first_noisy = torch.zeros(rows, dtype=torch.long, device=target)
        drawn = torch.multinomial(weights, 1, generator=generator).squeeze(1)
        first_noisy[preserves] = drawn.to(target)
        maskable = maskable & (torch.arange(length, device=target) >= first_noisy[:, None])

    level = torch.rand(rows, generator=generator, device=source).to(target)
    mask_prob = (1 - config.min_mask_prob) * level + config.min_mask_prob
    draws = torch.rand(rows, length, generator=generator, device=source).to(target)
    masked = (draws < mask_prob[:, None]) & maskable
    noisy = torch.where(masked, layout.mask_id, batch.ids)
    return Noised(noisy, masked, mask_prob, maskable.sum(dim=1).clamp(min=1))


def _span_starts(is_audio: Tensor) -> Tensor:
    """Return bool [B, L]: audio whose left neighbour is text or the beginning."""
    before = torch.zeros_like(is_audio)
    before[:, 1:] = is_audio[:, :-1]
    return is_audio & ~before


def _device(generator: torch.Generator | None) -> torch.device:
    return generator.device if generator is not None else torch.device("cpu")
