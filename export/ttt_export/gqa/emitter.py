"""Emit the gqa decoder (`ttt_runtime.bundle.gqa_spec`); norms and biases from the standard one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ttt_export.gqa.products import CONTRIB, Products
from ttt_export.graph_weights import GraphTensors
from ttt_export.linear import emit_norm
from ttt_export.weights import Float32Array
from ttt_export.writer import GraphWriter
from ttt_ref.config import ModelConfig
from ttt_runtime.bundle.gqa_spec import ROTARY_ROWS
from ttt_runtime.bundle.graph_spec import GraphSpec

FORBIDDEN = -1e9  # added to a score that the mask forbids: exp() of it is 0


def query_factors(config: ModelConfig) -> Float32Array:
    """Return factors of the columns of q|k|v, float32: 1 / sqrt(D) for those of the queries.

    With the scores' scale in the queries the kernel gets a scale of 1, and only then takes its
    short way for a single row, which reads the keys where they lie instead of repacking them.
    """
    query, kv = (
        heads * config.head_dim
        for heads in (config.num_attention_heads, config.num_key_value_heads)
    )
    factors = np.ones(query + 2 * kv, np.float32)
    factors[:query] = config.head_dim**-0.5
    return factors


class GqaEmitter:
    """Emits one decoder graph.

    Args:
        writer: where nodes and weights go.
        config: shape of the model.
        spec: the graph's inputs and outputs.
        tensors: the standard graph: norms and biases are taken from it.
    """

    def __init__(
        self, writer: GraphWriter, config: ModelConfig, spec: GraphSpec, tensors: GraphTensors
    ) -> None:
        self._writer = writer
        self._config = config
        self._spec = spec
        self._tensors = tensors

    def emit(self, products_of: Callable[[int], Products]) -> None:
        """Write the graph, its products as `products_of(layer)` emits them."""
        self._angles()
        self._context()
        x = "embeds"
        for index in range(self._config.num_hidden_layers):
            x = self._layer(products_of(index), index, x)
        self._norm("norm", x, output="hidden")
        self._writer.finish(self._spec)

    def _angles(self) -> None:
        """Add tables of the rotary angles; only rows of positions in use are ever read."""
        rows = int(self._spec.attributes[ROTARY_ROWS])
        # The very expression of the reference, so that the frequencies are equal to the last bit.
        pairs = torch.arange(0, self._config.head_dim, 2, dtype=torch.float32)
        frequency = 1.0 / self._config.rope_theta ** (pairs / self._config.head_dim)
        angle = torch.arange(rows, dtype=torch.float32)[:, None] * frequency
        for name, table in (("cos", angle.cos()), ("sin", angle.sin())):
            self._writer.weight(f"rotary.{name}", "float32", tuple(table.shape), [table.numpy()])

    def _context(self) -> None:
        """Add what attention wants to know of the context T: its length, and the mask as a bias."""
        writer = self._writer
        length = writer.node("Shape", ["mask"], "context.rows", start=1, end=2)
        narrow = writer.node("Cast", [length], "context.rows32", to=6)  # TensorProto.INT32
        writer.constant("one32", np.ones(1, np.int32))
        writer.node("Sub", [narrow, "one32"], "context.last")
        writer.node("Squeeze", [narrow], "context.total")
        writer.constant("seen", np.zeros((), np.float32))
        writer.constant("unseen", np.array(FORBIDDEN, np.float32))
        flat = writer.node("Where", ["mask", "seen", "unseen"], "context.flat_bias")
        writer.constant("head_axes", np.array([0, 1], np.int64))
        writer.node("Unsqueeze", [flat, "head_axes"], "context.bias")  # [1, 1, Q, T]

    def _vector(self, name: str) -> Float32Array:
        return self._tensors.values(name).astype(np.float32)

    def _norm(self, name: str, x: str, output: str | None = None) -> str:
        scale, epsilon = self._vector(f"{name}.scale"), self._config.rms_norm_eps
        return emit_norm(self._writer, x, name, scale, epsilon, output)

    def _layer(self, products: Products, index: int, x: str) -> str:
        writer, config, name = self._writer, self._config, f"layers.{index}"
        attn, mlp = f"{name}.attn", f"{name}.mlp"
        normed = self._norm(f"{attn}.norm", x)
        factors = query_factors(config)
        bias = self._vector(f"{attn}.bias") * factors
        qkv = products.emit(writer, normed, f"{attn}.qkv", bias, factors)
        past = [f"past_{kv}.{index}" for kv in "kv"]
        context = ["context.last", "context.total", "rotary.cos", "rotary.sin", "positions"]
        mixed = f"{attn}.mixed"
        writer.nodes(
            "GroupQueryAttention",
            [qkv, "", "", *past, *context, "context.bias"],
            [mixed, *(f"present_{kv}.{index}" for kv in "kv")],
            domain=CONTRIB,
            num_heads=config.num_attention_heads,
            kv_num_heads=config.num_key_value_heads,
            do_rotary=1,
            causal=0,
            scale=1.0,
        )
        out = products.emit(writer, mixed, f"{attn}.out", None)
        x = writer.node("Add", [x, out], f"{attn}.residual")
        both = products.emit(writer, self._norm(f"{mlp}.norm", x), f"{mlp}.gate_up", None)
        width = config.intermediate_size
        sizes = writer.constant("sizes.gate_up", np.array([width, width], np.int64))
        gate, up = writer.nodes("Split", [both, sizes], [f"{mlp}.gate", f"{mlp}.up"], axis=-1)
        silu = writer.node("QuickGelu", [gate], f"{mlp}.silu", domain=CONTRIB, alpha=1.0)
        gated = writer.node("Mul", [silu, up], f"{mlp}.gated")
        down = products.emit(writer, gated, f"{mlp}.down", None)
        return writer.node("Add", [x, down], f"{mlp}.residual")
