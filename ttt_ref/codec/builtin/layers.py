"""Building blocks that both networks share: ConvNeXt blocks with explicit context, and FSQ."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DepthwiseConv(nn.Module):
    """Depthwise convolution over time with a stated share of the kernel in the future.

    Works on [B, S, C] (channels last, several times faster on a CPU than [B, C, S]).
    """

    def __init__(self, channels: int, kernel: int, right: int):
        super().__init__()
        self.left, self.right = kernel - 1 - right, right
        self.weight = nn.Parameter(torch.empty(channels, 1, 1, kernel))
        self.bias = nn.Parameter(torch.zeros(channels))
        nn.init.trunc_normal_(self.weight, std=kernel**-0.5)

    def forward(self, x: Tensor, past: Tensor | None = None) -> Tensor:
        """[B, S, C] -> [B, S, C]; ``past`` [B, left, C] replaces the zeros before the start."""
        if past is None:
            x = F.pad(x, (0, 0, self.left, self.right))
        else:
            x = F.pad(torch.cat([past, x], dim=1), (0, 0, 0, self.right))
        y = F.conv2d(x.transpose(1, 2).unsqueeze(2), self.weight, self.bias, groups=x.shape[2])
        mixed: Tensor = y.squeeze(2).transpose(1, 2)
        return mixed


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, LayerNorm, two-layer perceptron, scaled residual (Liu et al. 2022)."""

    def __init__(self, channels: int, kernel: int, right: int, expansion: int):
        super().__init__()
        self.conv = DepthwiseConv(channels, kernel, right)
        self.norm = nn.LayerNorm(channels)
        self.up = nn.Linear(channels, channels * expansion)
        self.down = nn.Linear(channels * expansion, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.3))

    def forward(self, x: Tensor, mask: Tensor | None = None, past: Tensor | None = None) -> Tensor:
        """[B, S, C] -> [B, S, C]; ``mask`` [B, S, 1] zeroes what lies beyond each row's end."""
        if mask is not None:
            x = x * mask
        y = self.norm(self.conv(x, past))
        out: Tensor = x + self.scale * self.down(F.gelu(self.up(y)))
        return out


def round_codes(u: Tensor) -> Tensor:
    """Round tanh values [..., digits] to -1, 0, 1, with the identity as gradient."""
    return u + (torch.round(u) - u).detach()


def digits_to_ids(digits: Tensor) -> Tensor:
    """Digits in -1, 0, 1 [..., digits] -> code ids int64 [...]; the first digit counts least."""
    powers = 3 ** torch.arange(digits.shape[-1], device=digits.device)
    return ((digits.round().long() + 1) * powers).sum(-1)


def ids_to_digits(ids: Tensor, num_digits: int) -> Tensor:
    """Code ids [...] -> digits in -1, 0, 1 as float32 [..., num_digits]."""
    powers = 3 ** torch.arange(num_digits, device=ids.device)
    return (ids.unsqueeze(-1) // powers % 3 - 1).float()
