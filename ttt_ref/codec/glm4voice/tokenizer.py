"""The speech tokenizer's encoder: log-mel features to speech tokens, 12.5 a second.

A Whisper encoder whose convolutions look only back, whose attention sees everything earlier and
all of its own block of 200 frames (4 s), and whose hidden states are averaged by fours and
replaced by the number of the nearest code.

Axis letters: B batch, F 10 ms mel frames, L 20 ms positions (L = F / 2), S speech tokens
(S = L / 4), C channels, H heads, D head dim. Parameter names are the released file's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ttt_ref.codec.glm4voice.config import TokenizerConfig

KeyValue = tuple[Tensor, Tensor]  # each [B, L, C]


class EncoderAttention(nn.Module):
    """Multi-head attention; the key projection has no bias, as in Whisper."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(
        self, x: Tensor, may_attend: Tensor, past: KeyValue | None = None
    ) -> tuple[Tensor, KeyValue]:
        """Attend over the past and x.

        Args:
            x: [B, L, C].
            may_attend: bool, broadcastable to [B, 1, L, P + L] with P positions of the past.
            past: keys and values [B, P, C] of earlier positions.

        Returns:
            [B, L, C] and the keys and values [B, L, C] of x.
        """
        new = self.k_proj(x), self.v_proj(x)
        key, value = new
        if past is not None:
            key, value = torch.cat((past[0], key), 1), torch.cat((past[1], value), 1)
        split = (x.shape[0], -1, self.heads, x.shape[2] // self.heads)
        q, k, v = (t.view(split).transpose(1, 2) for t in (self.q_proj(x), key, value))
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=may_attend)
        return self.out_proj(out.transpose(1, 2).flatten(2)), new


class EncoderLayer(nn.Module):
    """Pre-norm attention and feed-forward with residuals."""

    def __init__(self, width: int, heads: int, ffn_dim: int) -> None:
        super().__init__()
        self.self_attn = EncoderAttention(width, heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(
        self, x: Tensor, may_attend: Tensor, past: KeyValue | None = None
    ) -> tuple[Tensor, KeyValue]:
        """Return the layer's output [B, L, C] and the keys and values of x."""
        attended, new = self.self_attn(self.self_attn_layer_norm(x), may_attend, past)
        x = x + attended
        return x + self.fc2(functional.gelu(self.fc1(self.final_layer_norm(x)))), new


@dataclass(frozen=True)
class Encoded:
    """What the encoder computes for a batch of segments."""

    ids: Tensor  # int64 [B, S]
    margin: Tensor  # [B, S] squared distance of the second nearest code minus the nearest
    pooled: Tensor  # [B, S, C] before the code book
    hidden: tuple[Tensor, ...]  # [B, L, C] input of the first layer, then each layer's output


class SpeechEncoder(nn.Module):
    """Features of whole segments to speech tokens."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.d_model
        self.conv1 = nn.Conv1d(config.mel_bins, width, 3)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2)
        self.embed_positions = nn.Embedding(config.max_frames, width)
        self.layers = nn.ModuleList(
            EncoderLayer(width, config.heads, config.ffn_dim) for _ in range(config.layers)
        )
        self.codebook = nn.Embedding(config.num_codes, width)
        self.embed_positions2 = nn.Embedding(config.max_tokens, width)

    def embed(self, features: Tensor) -> Tensor:
        """Run both causal convolutions: [B, M, F] to [B, L, C], positions not yet added."""
        x = functional.gelu(self.conv1(functional.pad(features, (2, 0))))
        return functional.gelu(self.conv2(functional.pad(x, (2, 0)))).transpose(1, 2)

    def mask(self, valid: Tensor) -> Tensor:
        """Return who may attend whom: bool [B, 1, L, L] from valid positions [B, L]."""
        index = torch.arange(valid.shape[1], device=valid.device)
        block = index // self.config.block_frames
        seen = (index[None, :] <= index[:, None]) | (block[None, :] == block[:, None])
        return seen[None, None] & valid[:, None, None, :]

    def quantize(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nearest code int64 [B, S] and its squared distance's margin [B, S]."""
        codes = self.codebook.weight
        flat = pooled.flatten(0, 1).float()
        distance = codes.square().sum(1) + flat.square().sum(1, keepdim=True) - 2 * flat @ codes.T
        nearest = distance.topk(2, largest=False)
        shape = pooled.shape[:2]
        margin = nearest.values[:, 1] - nearest.values[:, 0]
        return nearest.indices[:, 0].view(shape), margin.view(shape)

    def pool(self, x: Tensor) -> Tensor:
        """Average each four positions: [B, L, C] to [B, S, C]; L is padded with zeros."""
        four = self.config.pool_frames
        x = functional.pad(x, (0, 0, 0, -x.shape[1] % four))
        out: Tensor = x.unflatten(1, (-1, four)).mean(2)
        return out

    def forward(self, features: Tensor, frame_valid: Tensor) -> Encoded:
        """Encode segments.

        Args:
            features: float [B, M, F], F a multiple of 8 and at most 2 * max_frames.
            frame_valid: bool [B, F]; frames of padding are never attended to.
        """
        x = self.embed(features)
        x = x + self.embed_positions.weight[: x.shape[1]]
        may_attend = self.mask(frame_valid[:, ::2])
        hidden = [x]
        for layer in self.layers:
            x, _ = layer(x, may_attend)
            hidden.append(x)
        pooled = self.pool(x)
        ids, margin = self.quantize(pooled)
        return Encoded(ids, margin, pooled, tuple(hidden))

    def code_states(self, ids: Tensor) -> Tensor:
        """Return the released module's output states [B, S, C]: code rows plus positions."""
        out: Tensor = self.codebook(ids) + self.embed_positions2.weight[: ids.shape[1]]
        return out
