"""Emit the decoder: embedding rows in, hidden rows out, K and V written into the given cache.

One graph serves the text step, the prefill and the block: the boolean mask says everything about
who sees whom, so nothing in the graph is causal. Fused projections (q|k|v and gate|up) halve the
number of matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ttt_export.cache_types import CachePeaks, CacheStore
from ttt_export.linear import NUMPY_FLOATS, LayerQuantizer, Matrix, cast, emit_linear, emit_norm
from ttt_export.weights import Float32Array, WeightSource, tensor
from ttt_export.writer import ONNX_TYPES, GraphWriter
from ttt_quant.scheme import Scheme
from ttt_ref.config import ModelConfig
from ttt_runtime.bundle.graph_spec import GraphSpec

PROGRESS_LAYERS = 8

ChooseScheme = Callable[[str, int], Scheme]


def fused_matrix(source: WeightSource, name: str, tensors: list[str]) -> Matrix:
    """Return several linear weights [N_i, K] as one matrix W [K, sum N_i]."""
    heights = [source.shape(t)[0] for t in tensors]
    width = source.shape(tensors[0])[1]
    edges = np.concatenate(([0], np.cumsum(heights)))

    def columns(start: int, stop: int) -> Float32Array:
        parts = []
        for tensor_name, low, high in zip(tensors, edges[:-1], edges[1:], strict=True):
            first, last = max(start, low), min(stop, high)
            if first < last:
                parts.append(source.rows(tensor_name, int(first - low), int(last - low)))
        rows = np.concatenate(parts) if len(parts) > 1 else parts[0]
        return np.ascontiguousarray(rows.T)

    return Matrix(name, width, int(edges[-1]), columns, tuple(tensors))


def layer_matrices(source: WeightSource, index: int) -> dict[str, Matrix]:
    """Return the four matrices of a layer by their part names: qkv, out, gate_up, down."""
    stem = f"model.layers.{index}"
    name = f"layers.{index}"
    attention = [f"{stem}.self_attn.{p}_proj.weight" for p in "qkv"]
    return {
        "qkv": fused_matrix(source, f"{name}.attn.qkv", attention),
        "out": fused_matrix(source, f"{name}.attn.out", [f"{stem}.self_attn.o_proj.weight"]),
        "gate_up": fused_matrix(
            source, f"{name}.mlp.gate_up", [f"{stem}.mlp.{p}_proj.weight" for p in ("gate", "up")]
        ),
        "down": fused_matrix(source, f"{name}.mlp.down", [f"{stem}.mlp.down_proj.weight"]),
    }


class DecoderEmitter:
    """Emits one decoder graph.

    Args:
        writer: where nodes and weights go.
        config: shape of the model.
        spec: the graph's inputs and outputs.
        choose: scheme of a matrix by name and K.
        quantizer: makes integers, after it has seen the layer.
        peaks: what each layer caches at most; an int8 cache needs them.
    """

    def __init__(
        self,
        writer: GraphWriter,
        config: ModelConfig,
        spec: GraphSpec,
        choose: ChooseScheme,
        quantizer: LayerQuantizer,
        peaks: Sequence[CachePeaks] | None = None,
    ) -> None:
        self._writer = writer
        self._config = config
        self._spec = spec
        self._choose = choose
        self._quantizer = quantizer
        self._compute = spec.input("embeds").dtype
        self._cache = CacheStore(writer, self._compute, spec.input("past_k.0").dtype, peaks)

    def emit(self, source: WeightSource, progress: Callable[[str], None]) -> None:
        """Stream all layers out of `source` and write the graph; tell progress by layers."""
        cos, sin = self._rotary_angles()
        x = "embeds"
        layers = self._config.num_hidden_layers
        for index in range(layers):
            if index % PROGRESS_LAYERS == 0:
                progress(f"writing decoder, layer {index + 1} of {layers}")
            layer = self._quantizer.prepare_layer(index, source)
            x = self._layer(layer, index, x, cos, sin)
        self._norm(source, "model.norm.weight", "norm", x, output="hidden")
        self._writer.finish(self._spec)

    def _vector(self, name: str, values: Float32Array) -> str:
        return self._writer.constant(name, values.astype(NUMPY_FLOATS[self._compute]))

    def _rotary_angles(self) -> tuple[str, str]:
        writer, config = self._writer, self._config
        # The very expression of the reference, so that the frequencies are equal to the last bit.
        pairs = torch.arange(0, config.head_dim, 2, dtype=torch.float32)
        frequency = 1.0 / config.rope_theta ** (pairs / config.head_dim)
        writer.constant("rotary.frequency", frequency.numpy())
        writer.constant("last_axis", np.array([-1], dtype=np.int64))
        wide = writer.node("Cast", ["positions"], "rotary.position", to=ONNX_TYPES["float32"])
        column = writer.node("Unsqueeze", [wide, "last_axis"], "rotary.column")
        angle = writer.node("Mul", [column, "rotary.frequency"], "rotary.angle")  # [1, Q, D/2]
        both = []
        for op in ("Cos", "Sin"):
            name = writer.node(op, [angle], f"rotary.{op.lower()}")
            if self._compute != "float32":
                name = cast(writer, name, f"{name}.cast", self._compute)
            both.append(name)
        return both[0], both[1]

    def _norm(
        self, source: WeightSource, weight: str, name: str, x: str, output: str | None = None
    ) -> str:
        scale: NDArray[Any] = tensor(source, weight).astype(NUMPY_FLOATS[self._compute])
        return emit_norm(self._writer, x, name, scale, self._config.rms_norm_eps, output)

    def _linear(self, x: str, matrix: Matrix) -> str:
        scheme = self._choose(matrix.name, matrix.inputs)
        return emit_linear(self._writer, x, matrix, scheme, self._compute, self._quantizer)

    def _split(self, x: str, sizes: list[int], outputs: list[str]) -> list[str]:
        sizes_name = self._writer.constant(
            "sizes." + "_".join(map(str, sizes)), np.array(sizes, dtype=np.int64)
        )
        return self._writer.nodes("Split", [x, sizes_name], outputs, axis=-1)

    def _layer(self, source: WeightSource, index: int, x: str, cos: str, sin: str) -> str:
        stem, name = f"model.layers.{index}", f"layers.{index}"
        matrices = layer_matrices(source, index)
        normed = self._norm(source, f"{stem}.input_layernorm.weight", f"{name}.attn.norm", x)
        biases = [tensor(source, f"{stem}.self_attn.{p}_proj.bias") for p in "qkv"]
        mixed = self._attention(index, normed, matrices["qkv"], np.concatenate(biases), cos, sin)
        out = self._linear(mixed, matrices["out"])
        x = self._writer.node("Add", [x, out], f"{name}.attn.residual")
        after = f"{stem}.post_attention_layernorm.weight"
        gated = self._gated(name, self._norm(source, after, f"{name}.mlp.norm", x), matrices)
        down = self._linear(gated, matrices["down"])
        return self._writer.node("Add", [x, down], f"{name}.mlp.residual")

    def _attention(
        self, index: int, x: str, qkv: Matrix, bias: Float32Array, cos: str, sin: str
    ) -> str:
        writer, config, name = self._writer, self._config, f"layers.{index}.attn"
        query, kv = (
            heads * config.head_dim
            for heads in (config.num_attention_heads, config.num_key_value_heads)
        )
        product = self._linear(x, qkv)
        biased = writer.node("Add", [product, self._vector(f"{name}.bias", bias)], f"{name}.biased")
        # q and k turn by the same angles: one rotation over all their heads.
        turning, v = self._split(biased, [query + kv, kv], [f"{name}.qk", f"{name}.v"])
        turned = writer.node(
            "RotaryEmbedding",
            [turning, cos, sin],
            f"{name}.turned",
            num_heads=config.num_attention_heads + config.num_key_value_heads,
        )
        q, k = self._split(turned, [query, kv], [f"{name}.q", f"{name}.k"])
        by_heads = self._spec.attributes["cache_layout"] == "heads"
        if by_heads:  # TensorRT takes caches of four axes only
            q = self._by_heads(q, config.num_attention_heads)
            k = self._by_heads(k, config.num_key_value_heads)
            v = self._by_heads(v, config.num_key_value_heads)
        read = []
        for kind, rows in (("k", k), ("v", v)):
            update = self._cache.narrow(rows, kind, index)
            operands = [f"past_{kind}.{index}", update, "write_index"]
            present = writer.node("TensorScatter", operands, f"present_{kind}.{index}", axis=-2)
            read.append(self._cache.widen(present, kind, index))
        operands = [q, *read, "mask"]
        if not by_heads:
            return writer.node(
                "Attention",
                operands,
                f"{name}.mixed",
                q_num_heads=config.num_attention_heads,
                kv_num_heads=config.num_key_value_heads,
                is_causal=0,
            )
        mixed = writer.node("Attention", operands, f"{name}.mixed_heads", is_causal=0)
        rows = writer.node("Transpose", [mixed], f"{name}.mixed_rows", perm=[0, 2, 1, 3])
        flat = writer.constant(f"shape.rows_{query}", np.array([1, -1, query], dtype=np.int64))
        return writer.node("Reshape", [rows, flat], f"{name}.mixed")

    def _by_heads(self, x: str, heads: int) -> str:
        """Turn rows [1, Q, heads * D] into heads [1, heads, Q, D]."""
        shape = np.array([1, -1, heads, self._config.head_dim], dtype=np.int64)
        target = self._writer.constant(f"shape.heads_{heads}", shape)
        rows = self._writer.node("Reshape", [x, target], f"{x}.rows")
        return self._writer.node("Transpose", [rows], f"{x}.heads", perm=[0, 2, 1, 3])

    def _gated(self, name: str, x: str, matrices: dict[str, Matrix]) -> str:
        writer, width = self._writer, self._config.intermediate_size
        both = self._linear(x, matrices["gate_up"])
        gate, up = self._split(both, [width, width], [f"{name}.mlp.gate", f"{name}.mlp.up"])
        sigmoid = writer.node("Sigmoid", [gate], f"{name}.mlp.sigmoid")
        silu = writer.node("Mul", [gate, sigmoid], f"{name}.mlp.silu")
        return writer.node("Mul", [silu, up], f"{name}.mlp.gated")
