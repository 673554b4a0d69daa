"""The flow's velocity estimator: a one-level U-Net of convolutions and transformers over time.

Axis letters: B batch, F mel frames, C channels, H heads, D head dim.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ttt_ref.codec.glm4voice.config import FlowConfig


def time_embedding(t: Tensor, width: int) -> Tensor:
    """Return sines then cosines of 1000 t: [B] to [B, width]."""
    half = width // 2
    rate = torch.exp(torch.arange(half, device=t.device) * -(math.log(10000.0) / (half - 1)))
    angle = 1000.0 * t[:, None] * rate[None, :]
    return torch.cat((angle.sin(), angle.cos()), -1)


class TimeMlp(nn.Module):
    """Linear, SiLU, linear on the embedded time."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, out)
        self.linear_2 = nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C] to [B, out]."""
        out: Tensor = self.linear_2(functional.silu(self.linear_1(x)))
        return out


class ConvBlock(nn.Module):
    """Convolution over three frames, GroupNorm, Mish."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv1d(inputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.Mish()
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, F] to [B, outputs, F]."""
        out: Tensor = self.block(x)
        return out


class ResnetBlock(nn.Module):
    """Two convolution blocks with the time added between, and a projected residual."""

    def __init__(self, inputs: int, outputs: int, time_width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(time_width, outputs))
        self.block1 = ConvBlock(inputs, outputs)
        self.block2 = ConvBlock(outputs, outputs)
        self.res_conv = nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """[B, C, F] to [B, outputs, F] at the time embedding [B, time_width]."""
        h = self.block1(x) + self.mlp(time)[:, :, None]
        out: Tensor = self.block2(h) + self.res_conv(x)
        return out


class Attention(nn.Module):
    """Full attention over time; the inner width need not be the channel count."""

    def __init__(self, channels: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_dim
        self.to_q = nn.Linear(channels, inner, bias=False)
        self.to_k = nn.Linear(channels, inner, bias=False)
        self.to_v = nn.Linear(channels, inner, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(inner, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """[B, F, C] to [B, F, C]."""
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.to_out[0](mixed.transpose(1, 2).flatten(2))
        return out


class GeluProjection(nn.Module):
    """Linear and erf GELU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, F, C] to [B, F, outputs]."""
        return functional.gelu(self.proj(x))


class FeedForward(nn.Module):
    """GELU feed-forward of four times the width; the middle entry was a dropout."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            GeluProjection(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, F, C] to [B, F, C]."""
        out: Tensor = self.net(x)
        return out


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward with residuals."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        channels = config.estimator_channels
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, config.estimator_heads, config.estimator_head_dim)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, F, C] to [B, F, C]."""
        x = x + self.attn1(self.norm1(x))
        out: Tensor = x + self.ff(self.norm3(x))
        return out


class Down(nn.Module):
    """Halve the frame rate: F to ceil(F / 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, F] to [B, C, ceil(F / 2)]."""
        out: Tensor = self.conv(x)
        return out


class Up(nn.Module):
    """Double the frame rate."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(channels, channels, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, F] to [B, C, 2 F]."""
        out: Tensor = self.conv(x)
        return out


class Stage(nn.ModuleList):
    """One stage in the released numbering: 0 resnet, 1 transformers, 2 resampling if any."""

    def __init__(self, config: FlowConfig, inputs: int, last: nn.Module | None = None) -> None:
        channels = config.estimator_channels
        transformers = nn.Sequential(
            *(TransformerBlock(config) for _ in range(config.estimator_layers))
        )
        parts: list[nn.Module] = [ResnetBlock(inputs, channels, 4 * channels), transformers]
        super().__init__(parts if last is None else [*parts, last])

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """[B, C, F] to [B, C, F], before the resampling."""
        x = self[0](x, time).transpose(1, 2)
        x = self[1](x)
        return x.transpose(1, 2)


class Estimator(nn.Module):
    """Velocity of the mel frames at a point of the flow."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        channels, inputs = config.estimator_channels, config.estimator_inputs
        self.inputs = inputs
        self.time_mlp = TimeMlp(inputs, 4 * channels)
        self.down_blocks = nn.ModuleList(
            [
                Stage(config, inputs, Down(channels)),
                Stage(config, channels, nn.Conv1d(channels, channels, 3, padding=1)),
            ]
        )
        self.mid_blocks = nn.ModuleList(
            Stage(config, channels) for _ in range(config.estimator_mid_blocks)
        )
        self.up_blocks = nn.ModuleList(
            [
                Stage(config, 2 * channels, Up(channels)),
                Stage(config, 2 * channels, nn.Conv1d(channels, channels, 3, padding=1)),
            ]
        )
        self.final_block = ConvBlock(channels, channels)
        self.final_proj = nn.Conv1d(channels, config.mel_bins, 1)

    def forward(self, x: Tensor, mu: Tensor, t: Tensor, speaker: Tensor, cond: Tensor) -> Tensor:
        """Return the velocity [B, 80, F].

        Args:
            x: noisy mel [B, 80, F].
            mu: encoder output a frame [B, 80, F].
            t: time 0..1, [B].
            speaker: [B, 80], the same for every frame.
            cond: known mel frames of a prompt, else 0, [B, 80, F].
        """
        time = self.time_mlp(time_embedding(t, self.inputs))
        x = torch.cat((x, mu, speaker[:, :, None].expand_as(x), cond), 1)
        skips: list[Tensor] = []
        for stage in self.down_blocks:
            assert isinstance(stage, Stage)
            x = stage(x, time)
            skips.append(x)
            x = stage[2](x)
        for stage in self.mid_blocks:
            x = stage(x, time)
        for stage in self.up_blocks:
            assert isinstance(stage, Stage)
            skip = skips.pop()
            x = torch.cat((x[:, :, : skip.shape[2]], skip), 1)
            x = stage[2](stage(x, time))
        out: Tensor = self.final_proj(self.final_block(x))
        return out
