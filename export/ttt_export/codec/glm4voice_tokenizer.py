"""The speech tokenizer as one graph: a block of up to 4 s behind the earlier blocks' keys."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ttt_export.codec.ops import Ops, Precision, array
from ttt_ref.codec.glm4voice.stream_encode import HALO_FRAMES
from ttt_ref.codec.glm4voice.tokenizer import EncoderLayer, SpeechEncoder
from ttt_runtime.bundle.graph_spec import GraphSpec
from ttt_runtime.codec.glm4voice.graphs import tokenizer_spec
from ttt_runtime.codec.glm4voice.params import TokenizerParams


def tokenizer_params(encoder: SpeechEncoder) -> TokenizerParams:
    """Return what the runtime must know of the tokenizer."""
    config = encoder.config
    return TokenizerParams(
        num_codes=config.num_codes,
        mel_bins=config.mel_bins,
        width=config.d_model,
        layers=config.layers,
        block_positions=config.block_frames,
        segment_positions=config.max_frames,
        pool_positions=config.pool_frames,
    )


def _front(ops: Ops, encoder: SpeechEncoder) -> str:
    """Emit both convolutions: features [1, M, 4 + 2 L] to [1, L, C] with positions added."""
    x = ops.gelu(ops.conv(ops.computed("features"), "conv1", encoder.conv1, pad=False))
    # Before a segment the second convolution sees zeros, not what the first makes of zeros.
    edge = HALO_FRAMES // 2
    before = ops.node("Mul", ops.slice(x, 0, edge, 2), ops.computed("started"))
    rest = ops.slice(x, edge, np.iinfo(np.int64).max, 2)
    x = ops.node("Concat", before, rest, axis=2)
    x = ops.transpose(ops.gelu(ops.conv(x, "conv2", encoder.conv2, pad=False)), 0, 2, 1)
    table = array(encoder.embed_positions.weight)
    return ops.node("Add", x, ops.rows("positions.table", table, "positions"))


def _layer(ops: Ops, index: int, layer: EncoderLayer, x: str, bias: str) -> str:
    attention = layer.self_attn
    width = attention.q_proj.in_features
    head_dim = width // attention.heads
    scale = head_dim**-0.5
    # The scores' scale goes into the query: with a power of two that changes no bit.
    weight = torch.cat(
        (attention.q_proj.weight * scale, attention.k_proj.weight, attention.v_proj.weight)
    )
    none = torch.zeros_like(attention.v_proj.bias)
    offset = torch.cat((attention.q_proj.bias * scale, none, attention.v_proj.bias))
    normed = ops.layer_norm(x, layer.self_attn_layer_norm)
    qkv = ops.linear(normed, f"layers.{index}.attn.qkv", weight, offset)
    q, k, v = ops.split(qkv, [width] * 3, axis=2)
    keys_values = []
    for name, new in (("k", k), ("v", v)):
        ops.node("Identity", new, out=f"new_{name}.{index}")
        whole = ops.node("Concat", f"past_{name}.{index}", new, axis=1)
        keys_values.append(ops.heads(whole, attention.heads, head_dim))
    query, (key, value) = ops.heads(q, attention.heads, head_dim), keys_values
    out = ops.attend(query, key, value, bias, width)
    projected = ops.linear(
        out, f"layers.{index}.attn.out", attention.out_proj.weight, attention.out_proj.bias
    )
    x = ops.node("Add", x, projected)
    inner = ops.linear(
        ops.layer_norm(x, layer.final_layer_norm),
        f"layers.{index}.mlp.up",
        layer.fc1.weight,
        layer.fc1.bias,
    )
    down = ops.linear(ops.gelu(inner), f"layers.{index}.mlp.down", layer.fc2.weight, layer.fc2.bias)
    return ops.node("Add", x, down)


def write_tokenizer(path: Path, encoder: SpeechEncoder, precision: Precision) -> GraphSpec:
    """Write the tokenizer's graph and return its spec."""
    params = tokenizer_params(encoder)
    spec = tokenizer_spec(params, precision.compute)
    ops = Ops(path, precision)
    x = _front(ops, encoder)
    valid = ops.node("Concat", "past_valid", "new_valid", axis=0)
    bias = ops.score_bias(valid, 1, 1, 1, -1)
    for index, layer in enumerate(encoder.layers):
        assert isinstance(layer, EncoderLayer)
        x = _layer(ops, index, layer, x, bias)
    pooled = ops.reshape(ops.to_float32(x), 0, -1, params.pool_positions, params.width)
    mean = ops.node("ReduceMean", pooled, ops.ints(2), keepdims=0)
    # The nearest code has the least |c|^2 - 2 x c; computed in float32 whatever the precision.
    codes = array(encoder.codebook.weight)
    if ops.is_small:
        codes = codes.astype(np.float16).astype(np.float32)
    kind = "float16" if ops.is_small else "float32"
    table = ops.big("codebook.weight", np.ascontiguousarray(-2.0 * codes.T), kind)
    table = ops.cast(table, "float32") if ops.is_small else table
    squares = ops.const32(np.square(codes.astype(np.float64)).sum(1))
    distance = ops.node("Add", ops.node("MatMul", mean, table), squares)
    ops.node("ArgMin", distance, axis=2, keepdims=0, out="ids")
    ops.finish(spec)
    return spec
