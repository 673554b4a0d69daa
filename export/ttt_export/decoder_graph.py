"""Emit the decoder: embedding rows in, hidden rows out, K and V written into the given cache.

One graph serves the text step, the prefill and the block: the boolean mask says everything about
who sees whom, so nothing in the graph is causal. Fused projections (q|k|v and gate|up) halve the
number of matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttt_export.basic_operators import BasicOperators
from ttt_export.cache_types import CachePeaks, CacheStore
from ttt_export.linear import NUMPY_FLOATS, LayerQuantizer, Matrix, emit_linear
from ttt_export.operators import Operators, StandardOperators, split
from ttt_export.weights import Float32Array, WeightSource, tensor
from ttt_export.writer import GraphWriter
from ttt_quant.scheme import Scheme
from ttt_ref.config import ModelConfig
from ttt_runtime.bundle.basic_spec import is_basic
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
        cache = CacheStore(writer, self._compute, spec.input("past_k.0").dtype, peaks)
        kind = BasicOperators if is_basic(spec) else StandardOperators
        self._operators: Operators = kind(writer, config, spec, cache)

    def emit(self, source: WeightSource, progress: Callable[[str], None]) -> None:
        """Stream all layers out of `source` and write the graph; tell progress by layers."""
        self._operators.begin()
        x = "embeds"
        layers = self._config.num_hidden_layers
        for index in range(layers):
            if index % PROGRESS_LAYERS == 0:
                progress(f"writing decoder, layer {index + 1} of {layers}")
            layer = self._quantizer.prepare_layer(index, source)
            x = self._layer(layer, index, x)
        self._norm(source, "model.norm.weight", "norm", x, output="hidden")
        self._writer.finish(self._spec)

    def _vector(self, name: str, values: Float32Array) -> str:
        return self._writer.constant(name, values.astype(NUMPY_FLOATS[self._compute]))

    def _norm(
        self, source: WeightSource, weight: str, name: str, x: str, output: str | None = None
    ) -> str:
        scale: NDArray[Any] = tensor(source, weight).astype(NUMPY_FLOATS[self._compute])
        return self._operators.norm(x, name, scale, output)

    def _linear(self, x: str, matrix: Matrix) -> str:
        scheme = self._choose(matrix.name, matrix.inputs)
        return emit_linear(self._writer, x, matrix, scheme, self._compute, self._quantizer)

    def _layer(self, source: WeightSource, index: int, x: str) -> str:
        stem, name = f"model.layers.{index}", f"layers.{index}"
        matrices = layer_matrices(source, index)
        normed = self._norm(source, f"{stem}.input_layernorm.weight", f"{name}.attn.norm", x)
        biases = [tensor(source, f"{stem}.self_attn.{p}_proj.bias") for p in "qkv"]
        mixed = self._attention(index, normed, matrices["qkv"], np.concatenate(biases))
        out = self._linear(mixed, matrices["out"])
        x = self._writer.node("Add", [x, out], f"{name}.attn.residual")
        after = f"{stem}.post_attention_layernorm.weight"
        gated = self._gated(name, self._norm(source, after, f"{name}.mlp.norm", x), matrices)
        down = self._linear(gated, matrices["down"])
        return self._writer.node("Add", [x, down], f"{name}.mlp.residual")

    def _attention(self, index: int, x: str, qkv: Matrix, bias: Float32Array) -> str:
        writer, config, name = self._writer, self._config, f"layers.{index}.attn"
        query, kv = (
            heads * config.head_dim
            for heads in (config.num_attention_heads, config.num_key_value_heads)
        )
        product = self._linear(x, qkv)
        biased = writer.node("Add", [product, self._vector(f"{name}.bias", bias)], f"{name}.biased")
        qk, v = split(writer, biased, [query + kv, kv], [f"{name}.qk", f"{name}.v"])
        return self._operators.attend(index, qk, v)

    def _gated(self, name: str, x: str, matrices: dict[str, Matrix]) -> str:
        writer, width = self._writer, self._config.intermediate_size
        both = self._linear(x, matrices["gate_up"])
        gate, up = split(writer, both, [width, width], [f"{name}.mlp.gate", f"{name}.mlp.up"])
        sigmoid = writer.node("Sigmoid", [gate], f"{name}.mlp.sigmoid")
        silu = writer.node("Mul", [gate, sigmoid], f"{name}.mlp.silu")
        return writer.node("Mul", [silu, up], f"{name}.mlp.gated")
