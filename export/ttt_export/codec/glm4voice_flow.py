"""The flow as two graphs: tokens to the mean of each frame, and the guided velocity."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ttt_export.codec.ops import Ops, Precision, array
from ttt_ref.codec.glm4voice.estimator import (
    ConvBlock,
    Estimator,
    ResnetBlock,
    Stage,
    TransformerBlock,
)
from ttt_ref.codec.glm4voice.flow import Flow
from ttt_ref.codec.glm4voice.flow_encoder import FlowEncoderLayer, LengthRegulator
from ttt_runtime.bundle.graph_spec import GraphSpec
from ttt_runtime.codec.glm4voice.graphs import (
    flow_encoder_spec,
    flow_single_spec,
    flow_velocity_spec,
)


class _EncoderGraph:
    """Emits the flow's encoder."""

    def __init__(self, ops: Ops, flow: Flow) -> None:
        self._ops, self._flow = ops, flow
        self._heads = flow.config.encoder_heads
        self._width = flow.config.width
        self._head_dim = self._width // self._heads

    def emit(self) -> None:
        """Add all nodes; the result is `mu`."""
        ops, flow = self._ops, self._flow
        # All before the first attention depends on the code alone: one table of finished rows.
        rows = flow.encoder.embed.out(flow.input_embedding.weight) * math.sqrt(self._width)
        x = ops.rows("tokens.table", array(rows), "tokens")
        shape = ops.node("Shape", "tokens")
        length = ops.node("Gather", shape, ops.writer.constant("one", np.array(1)), axis=0)
        distances, columns, bias = self._positions(length)
        for index, layer in enumerate(flow.encoder.encoders):
            assert isinstance(layer, FlowEncoderLayer)
            x = self._layer(index, layer, x, distances, columns, bias)
        x = ops.layer_norm(x, flow.encoder.after_norm)
        proj = flow.encoder_proj
        x = ops.linear(x, "proj", proj.weight, proj.bias)
        x = ops.transpose(ops.node("Gather", x, "source_index", axis=1), 0, 2, 1)
        self._regulate(flow.length_regulator, x)

    def _positions(self, length: str) -> tuple[str, str, str]:
        """Return sinusoids [1, 2 S - 1, C], the column of each distance, and the mask's bias."""
        ops, width = self._ops, self._width
        one, zero = (ops.writer.constant(f"int.{n}", np.array(n)) for n in (1, 0))
        minus = ops.writer.constant("int.-1", np.array(-1))
        top = ops.node("Sub", length, one)
        distance = ops.node("Range", top, ops.node("Neg", length), minus)
        column = ops.node("Unsqueeze", ops.cast(distance, "float32"), ops.ints(1))
        rate = np.exp(np.arange(0, width, 2, dtype=np.float32) * -(math.log(10000.0) / width))
        angle = ops.node("Mul", column, ops.const32(rate[None, :]))
        pair = [ops.node("Unsqueeze", ops.node(op, angle), ops.ints(2)) for op in ("Sin", "Cos")]
        table = ops.reshape(ops.node("Concat", *pair, axis=2), 1, -1, width)
        index = ops.node("Range", zero, length, one)
        row = ops.node("Unsqueeze", index, ops.ints(1))  # i
        other = ops.node("Unsqueeze", index, ops.ints(0))  # j
        columns = ops.node("Add", ops.node("Sub", top, row), other)
        four = ops.node("Concat", ops.ints(1, self._heads), self._pair(length), axis=0)
        wide = ops.node("Expand", ops.node("Unsqueeze", columns, ops.ints(0, 1)), four)
        block = ops.writer.constant("block", np.array(self._flow.config.encoder_block))
        seen = ops.node("LessOrEqual", ops.node("Div", other, block), ops.node("Div", row, block))
        bias = ops.node("Unsqueeze", self._mask(seen), ops.ints(0, 1))
        return ops.computed(table), wide, bias

    def _pair(self, length: str) -> str:
        ops = self._ops
        one = ops.node("Unsqueeze", length, ops.ints(0))
        return ops.node("Concat", one, one, axis=0)

    def _mask(self, seen: str) -> str:
        ops = self._ops
        low = -6e4 if ops.precision.compute == "float16" else -1e30
        return ops.node("Where", seen, ops.const(0.0), ops.const(low))

    def _layer(
        self,
        index: int,
        layer: FlowEncoderLayer,
        x: str,
        distances: str,
        columns: str,
        bias: str,
    ) -> str:
        ops, heads, dim = self._ops, self._heads, self._head_dim
        attention, name = layer.self_attn, f"layers.{index}"
        scale = dim**-0.5
        q_proj, k_proj, v_proj = attention.linear_q, attention.linear_k, attention.linear_v
        weight = torch.cat((q_proj.weight * scale, k_proj.weight, v_proj.weight))
        offset = torch.cat((q_proj.bias * scale, k_proj.bias, v_proj.bias))
        normed = ops.layer_norm(x, layer.norm_mha)
        qkv = ops.linear(normed, f"{name}.attn.qkv", weight, offset)
        q, k, v = (
            ops.heads(part, heads, dim) for part in ops.split(qkv, [self._width] * 3, axis=2)
        )
        p = ops.heads(
            ops.linear(distances, f"{name}.attn.pos", attention.linear_pos.weight), heads, dim
        )
        by_content, by_distance = (
            ops.node("Add", q, ops.const(array(extra)[None, :, None, :] * np.float32(scale)))
            for extra in (attention.pos_bias_u, attention.pos_bias_v)
        )
        far = ops.node("MatMul", by_distance, ops.transpose(p, 0, 1, 3, 2))
        shifted = ops.node("GatherElements", far, columns, axis=3)
        mixed = ops.attend(by_content, k, v, ops.node("Add", shifted, bias), self._width)
        out = attention.linear_out
        x = ops.node("Add", x, ops.linear(mixed, f"{name}.attn.out", out.weight, out.bias))
        ff = layer.feed_forward
        inner = ops.linear(
            ops.layer_norm(x, layer.norm_ff), f"{name}.mlp.up", ff.w_1.weight, ff.w_1.bias
        )
        down = ops.linear(ops.silu(inner), f"{name}.mlp.down", ff.w_2.weight, ff.w_2.bias)
        return ops.node("Add", x, down)

    def _regulate(self, regulator: LengthRegulator, x: str) -> None:
        ops = self._ops
        for index, part in enumerate(regulator.model):
            if isinstance(part, nn.Conv1d):
                x = ops.conv(x, f"regulator.{index}", part)
            elif isinstance(part, nn.GroupNorm):
                x = ops.group_norm(x, part)
            else:
                x = ops.mish(x)
        ops.to_float32(x, "mu")


class _VelocityGraph:
    """Emits the estimator: with and without guidance as one batch of two, or one row alone."""

    def __init__(self, ops: Ops, flow: Flow, single: bool = False) -> None:
        self._ops, self._flow, self._config = ops, flow, flow.config
        self._single = single
        self._estimator: Estimator = flow.decoder.estimator
        self._times: dict[str, str] = {}

    def emit(self) -> None:
        """Add all nodes; the result is `velocity`."""
        ops, est = self._ops, self._estimator
        self._time()
        x = self._input()
        skips = []
        for index, stage in enumerate(est.down_blocks):
            x = self._stage(f"down.{index}", stage, x)
            skips.append(x)
            down = stage[2].conv if index == 0 else stage[2]  # type: ignore[index, union-attr]
            x = ops.conv(x, f"down.{index}.last", down)  # type: ignore[arg-type]
        for index, stage in enumerate(est.mid_blocks):
            x = self._stage(f"mid.{index}", stage, x)
        for index, stage in enumerate(est.up_blocks):
            skip = skips.pop()
            frames = self._frames(skip)
            trimmed = ops.node("Slice", x, ops.ints(0), frames, ops.ints(2))
            x = ops.node("Concat", trimmed, skip, axis=1)
            x = self._stage(f"up.{index}", stage, x)
            if index == 0:
                up = stage[2].conv  # type: ignore[index, union-attr]
                x = ops.conv_transpose(x, f"up.{index}.last", up)  # type: ignore[arg-type]
            else:
                x = ops.conv(x, f"up.{index}.last", stage[2])  # type: ignore[index, arg-type]
        x = self._conv_block("final", est.final_block, x)
        both = ops.to_float32(ops.conv(x, "final.proj", est.final_proj))
        if self._single:
            ops.node("Identity", both, out="velocity")
            return
        guided, alone = ops.split(both, [1, 1], axis=0)
        gap = ops.node("Mul", ops.node("Sub", guided, alone), "guidance")
        ops.node("Add", guided, gap, out="velocity")

    def _frames(self, x: str) -> str:
        shape = self._ops.node("Shape", x)
        return self._ops.slice(shape, 2, 3, 0)

    def _input(self) -> str:
        """Return [2, 320, F]: x, mu, speaker, cond, and x, 0, 0, 0; a single graph's is [1]."""
        ops, bins = self._ops, self._config.mel_bins
        column = ops.node("Unsqueeze", "speaker", ops.ints(2))
        spread = ops.node("Expand", column, ops.node("Shape", "x"))
        known = ops.node("Concat", "x", "mu", spread, "cond", axis=1)
        if self._single:
            return ops.computed(known)
        padding = ops.ints(0, 0, 0, 0, 3 * bins, 0)
        alone = ops.node("Pad", "x", padding)
        return ops.computed(ops.node("Concat", known, alone, axis=0))

    def _time(self) -> None:
        """Embed t and project it for every resnet block at once."""
        ops, est = self._ops, self._estimator
        half = est.inputs // 2
        rate = np.exp(np.arange(half, dtype=np.float32) * -(math.log(10000.0) / (half - 1)))
        thousand = ops.node("Mul", "t", ops.const32(1000.0))
        angle = ops.node("Mul", ops.reshape(thousand, 1, 1), ops.const32(rate[None, :]))
        table = ops.node("Concat", ops.node("Sin", angle), ops.node("Cos", angle), axis=1)
        mlp = est.time_mlp
        x = ops.linear(ops.computed(table), "time.1", mlp.linear_1.weight, mlp.linear_1.bias)
        x = ops.linear(ops.silu(x), "time.2", mlp.linear_2.weight, mlp.linear_2.bias)
        blocks = {
            f"{side}.{index}": stage[0]  # type: ignore[index]
            for side, stages in (
                ("down", est.down_blocks),
                ("mid", est.mid_blocks),
                ("up", est.up_blocks),
            )
            for index, stage in enumerate(stages)
        }
        lasts = [block.mlp[1] for block in blocks.values()]
        weight = torch.cat([last.weight for last in lasts])
        bias = torch.cat([last.bias for last in lasts])
        all_times = ops.linear(ops.mish(x), "time.blocks", weight, bias)
        parts = ops.split(all_times, [last.out_features for last in lasts], axis=1)
        for name, part in zip(blocks, parts, strict=True):
            self._times[name] = ops.reshape(part, 1, -1, 1)

    def _conv_block(self, name: str, block: ConvBlock, x: str) -> str:
        conv, norm = block.block[0], block.block[1]
        assert isinstance(conv, nn.Conv1d)
        assert isinstance(norm, nn.GroupNorm)
        return self._ops.mish(self._ops.group_norm(self._ops.conv(x, name, conv), norm))

    def _stage(self, name: str, stage: nn.Module, x: str) -> str:
        assert isinstance(stage, Stage)
        resnet, transformers = stage[0], stage[1]
        assert isinstance(resnet, ResnetBlock)
        assert isinstance(transformers, nn.Sequential)
        ops = self._ops
        h = self._conv_block(f"{name}.conv1", resnet.block1, x)
        h = ops.node("Add", h, self._times[name])
        h = self._conv_block(f"{name}.conv2", resnet.block2, h)
        x = ops.node("Add", h, ops.conv(x, f"{name}.residual", resnet.res_conv))
        x = ops.transpose(x, 0, 2, 1)
        for index, block in enumerate(transformers):
            assert isinstance(block, TransformerBlock)
            x = self._transformer(f"{name}.layers.{index}", block, x)
        return ops.transpose(x, 0, 2, 1)

    def _transformer(self, name: str, block: TransformerBlock, x: str) -> str:
        ops, heads, dim = self._ops, self._config.estimator_heads, self._config.estimator_head_dim
        attention, inner = block.attn1, heads * dim
        weight = torch.cat(
            (attention.to_q.weight * dim**-0.5, attention.to_k.weight, attention.to_v.weight)
        )
        qkv = ops.linear(ops.layer_norm(x, block.norm1), f"{name}.attn.qkv", weight)
        q, k, v = (ops.heads(part, heads, dim) for part in ops.split(qkv, [inner] * 3, axis=2))
        out = attention.to_out[0]
        assert isinstance(out, nn.Linear)
        mixed = ops.attend(q, k, v, None, inner)
        x = ops.node("Add", x, ops.linear(mixed, f"{name}.attn.out", out.weight, out.bias))
        up, down = block.ff.net[0].proj, block.ff.net[2]  # type: ignore[union-attr]
        assert isinstance(up, nn.Linear)
        assert isinstance(down, nn.Linear)
        h = ops.linear(ops.layer_norm(x, block.norm3), f"{name}.mlp.up", up.weight, up.bias)
        h = ops.linear(ops.gelu(h), f"{name}.mlp.down", down.weight, down.bias)
        return ops.node("Add", x, h)


def write_flow_encoder(path: Path, flow: Flow, precision: Precision) -> GraphSpec:
    """Write the graph tokens -> mu and return its spec."""
    spec = flow_encoder_spec(flow.config.mel_bins)
    ops = Ops(path, precision)
    _EncoderGraph(ops, flow).emit()
    ops.finish(spec)
    return spec


def write_flow_velocity(path: Path, flow: Flow, precision: Precision) -> GraphSpec:
    """Write the graph of the guided velocity and return its spec."""
    spec = flow_velocity_spec(flow.config.mel_bins)
    ops = Ops(path, precision)
    _VelocityGraph(ops, flow).emit()
    ops.finish(spec)
    return spec


def write_flow_single(path: Path, flow: Flow, precision: Precision) -> GraphSpec:
    """Write the graph of one row, to measure what the batch of two saves."""
    spec = flow_single_spec(flow.config.mel_bins)
    ops = Ops(path, precision)
    _VelocityGraph(ops, flow, single=True).emit()
    ops.finish(spec)
    return spec
