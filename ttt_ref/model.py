"""The Qwen2 decoder in plain PyTorch, with the state-dict names of the released checkpoints.

Axes: B batch, L sequence, V vocabulary, H heads, D head dim.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttt_ref.config import ModelConfig


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32 and scaled in the input's dtype."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis of x [..., width]."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


def rotary_table(length: int, config: ModelConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cos and sin, float32 [L, D/2], of the rotary angles at positions 0..L-1."""
    pairs = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=device)
    inverse_frequency = 1.0 / config.rope_theta ** (pairs / config.head_dim)
    positions = torch.arange(length, dtype=torch.float32, device=device)
    angles = positions[:, None] * inverse_frequency[None, :]
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (d, d + D/2) of x [B, H, L, D] by the angle of its position."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Attention(nn.Module):
    """Grouped-query attention; bias on q, k and v, none on the output."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        query_width = config.num_attention_heads * config.head_dim
        kv_width = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_width)
        self.k_proj = nn.Linear(config.hidden_size, kv_width)
        self.v_proj = nn.Linear(config.hidden_size, kv_width)
        self.o_proj = nn.Linear(query_width, config.hidden_size, bias=False)

    def forward(self, x: Tensor, bias: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attend x [B, L, hidden] to itself under an additive mask [B, 1, L, L]."""
        batch, length, _ = x.shape
        shape = (batch, length, -1, self.config.head_dim)
        q = rotate(self.q_proj(x).view(shape).transpose(1, 2), cos, sin)  # [B, H, L, D]
        k = rotate(self.k_proj(x).view(shape).transpose(1, 2), cos, sin)  # [B, KV, L, D]
        v = self.v_proj(x).view(shape).transpose(1, 2)
        group = self.config.num_attention_heads // self.config.num_key_value_heads
        k = k.repeat_interleave(group, dim=1)
        v = v.repeat_interleave(group, dim=1)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
        return out


class MLP(nn.Module):
    """Gated SiLU feed-forward block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., hidden] to the same shape."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """One pre-norm decoder layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, bias: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Map x [B, L, hidden] to the same shape."""
        x = x + self.self_attn(self.input_layernorm(x), bias, cos, sin)
        fed: Tensor = self.mlp(self.post_attention_layernorm(x))
        return x + fed


class Decoder(nn.Module):
    """Embedding, layers and final norm (the ``model.`` prefix of the state dict)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class TttModel(nn.Module):
    """Text-to-Talk: one decoder for text and speech. There is no cache: this is the truth.

    A tied checkpoint has no ``lm_head`` entry; the embedding is its output layer.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def head_weight(self) -> Tensor:
        """Rows of the output layer, [V, hidden]."""
        if self.config.tie_word_embeddings:
            return self.model.embed_tokens.weight
        return self.lm_head.weight

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.model.embed_tokens.weight.device

    def hidden(self, ids: Tensor, attend: Tensor | None = None) -> Tensor:
        """Return the final-norm states [B, L, hidden] of ids [B, L].

        Args:
            ids: token ids, int64 [B, L]; positions are always 0..L-1, padding or not.
            attend: bool [B, L, L] from :func:`ttt_ref.mask.attend_mask`; None means plain causal.
        """
        length = ids.shape[1]
        x = self.model.embed_tokens(ids)
        if attend is None:
            attend = torch.ones(1, length, length, dtype=torch.bool, device=ids.device).tril()
        # The lowest finite number, not -inf: a query that may see nothing (left padding) then
        # weighs all keys equally, as the released code does, and never becomes NaN.
        bias = torch.zeros(attend.shape, dtype=x.dtype, device=x.device)
        bias = bias.masked_fill(~attend, torch.finfo(x.dtype).min)[:, None]  # [B, 1, L, L]
        cos, sin = rotary_table(length, self.config, x.device)
        for layer in self.model.layers:
            x = layer(x, bias, cos, sin)
        normed: Tensor = self.model.norm(x)
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        """Map hidden states [..., hidden] to logits [..., V]."""
        return F.linear(hidden, self.head_weight)

    def forward(
        self, ids: Tensor, attend: Tensor | None = None, read: Tensor | None = None
    ) -> Tensor:
        """Return logits [B, L, V], or [N, V] at the N positions where ``read`` is True.

        Text logits at position t predict token t + 1; speech logits are read at the masked
        position itself.

        Args:
            ids: as for :meth:`hidden`.
            attend: as for :meth:`hidden`.
            read: bool [B, L]; training reads few positions, and V is large.
        """
        hidden = self.hidden(ids, attend)
        return self.logits(hidden if read is None else hidden[read])

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Fill with the usual start: normal matrices, zero biases, unit norms."""
        for name, parameter in self.named_parameters():
            if name.endswith(".bias"):
                parameter.zero_()
            elif parameter.ndim == 1:
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, self.config.initializer_range, generator=generator)
