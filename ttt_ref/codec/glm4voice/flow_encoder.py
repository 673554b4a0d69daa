"""The flow's encoder: speech tokens to one mel-like vector a token, then a vector a mel frame.

A transformer with relative positions whose attention sees its own block of ten tokens and all
earlier ones, a nearest-neighbour stretch from 12.5 Hz to 86.1 Hz, and a small convolution stack.

Axis letters: B batch, S speech tokens, F mel frames, C channels, H heads, D head dim.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ttt_ref.codec.glm4voice.config import FlowConfig


def distance_table(length: int, width: int) -> Tensor:
    """Return sinusoids of the distances length-1 .. -(length-1): [2 * length - 1, width].

    Even channels hold sines, odd ones cosines.
    """
    distance = torch.arange(length - 1, -length, -1.0)
    rate = torch.exp(torch.arange(0, width, 2.0) * -(math.log(10000.0) / width))
    angle = distance[:, None] * rate[None, :]
    return torch.stack((angle.sin(), angle.cos()), -1).flatten(1)


class RelativeAttention(nn.Module):
    """Attention whose scores have a content part and a distance part, each with its own bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, width // heads
        self.linear_q = nn.Linear(width, width)
        self.linear_k = nn.Linear(width, width)
        self.linear_v = nn.Linear(width, width)
        self.linear_out = nn.Linear(width, width)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(heads, self.head_dim))
        self.pos_bias_v = nn.Parameter(torch.zeros(heads, self.head_dim))

    def _split(self, x: Tensor) -> Tensor:
        out: Tensor = x.unflatten(-1, (self.heads, self.head_dim))
        return out

    def forward(self, x: Tensor, distances: Tensor, may_attend: Tensor) -> Tensor:
        """Attend.

        Args:
            x: [B, S, C].
            distances: :func:`distance_table` of S, [2 S - 1, C].
            may_attend: bool [S, S].
        """
        length = x.shape[1]
        q = self._split(self.linear_q(x))  # [B, S, H, D]
        k = self._split(self.linear_k(x)).transpose(1, 2)  # [B, H, S, D]
        v = self._split(self.linear_v(x)).transpose(1, 2)
        p = self._split(self.linear_pos(distances)).transpose(0, 1)  # [H, 2 S - 1, D]
        content = (q + self.pos_bias_u).transpose(1, 2) @ k.transpose(-1, -2)
        by_distance = (q + self.pos_bias_v).transpose(1, 2) @ p.transpose(-1, -2)
        index = torch.arange(length, device=x.device)
        column = (length - 1) - (index[:, None] - index[None, :])  # of distance i - j
        shifted = by_distance.gather(-1, column.expand(*by_distance.shape[:2], -1, -1))
        scores = (content + shifted) / math.sqrt(self.head_dim)
        weights = scores.masked_fill(~may_attend, -torch.inf).softmax(-1)
        out: Tensor = self.linear_out((weights @ v).transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    """Two linear layers with SiLU between."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(width, inner)
        self.w_2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, C] to [B, S, C]."""
        out: Tensor = self.w_2(functional.silu(self.w_1(x)))
        return out


class FlowEncoderLayer(nn.Module):
    """Pre-norm relative attention and feed-forward with residuals."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.self_attn = RelativeAttention(config.width, config.encoder_heads)
        self.feed_forward = FeedForward(config.width, config.encoder_ffn)
        self.norm_mha = nn.LayerNorm(config.width)
        self.norm_ff = nn.LayerNorm(config.width)

    def forward(self, x: Tensor, distances: Tensor, may_attend: Tensor) -> Tensor:
        """[B, S, C] to [B, S, C]."""
        x = x + self.self_attn(self.norm_mha(x), distances, may_attend)
        out: Tensor = x + self.feed_forward(self.norm_ff(x))
        return out


class InputEmbedding(nn.Module):
    """Linear and LayerNorm in front of the transformer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))


class FlowEncoder(nn.Module):
    """The block-causal transformer over embedded speech tokens."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.width, self.block = config.width, config.encoder_block
        self.embed = InputEmbedding(config.width)
        self.encoders = nn.ModuleList(
            FlowEncoderLayer(config) for _ in range(config.encoder_layers)
        )
        self.after_norm = nn.LayerNorm(config.width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, C] to [B, S, C]."""
        length = x.shape[1]
        index = torch.arange(length, device=x.device)
        may_attend = index[None, :] // self.block <= index[:, None] // self.block
        x = self.embed.out(x) * math.sqrt(self.width)
        distances = distance_table(length, self.width).to(x)
        for layer in self.encoders:
            x = layer(x, distances, may_attend)
        out: Tensor = self.after_norm(x)
        return out


class LengthRegulator(nn.Module):
    """Stretch to the frame rate, then smooth. Its GroupNorms run over the whole time axis."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        stack: list[nn.Module] = []
        for _ in range(4):
            stack += [
                nn.Conv1d(channels, channels, 3, padding=1),
                nn.GroupNorm(1, channels),
                nn.Mish(),
            ]
        self.model = nn.Sequential(*stack, nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor, source_index: Tensor) -> Tensor:
        """Stretch [B, S, C] by the token index of each frame, int64 [F]: [B, C, F]."""
        out: Tensor = self.model(x.index_select(1, source_index).transpose(1, 2))
        return out
