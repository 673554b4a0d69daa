"""Read back what a written bundle computes with, under the checkpoint's tensor names.

The reference, run on these weights, must give what the graphs give: that separates a fault of
emission (a wrong node, a slip in packing) from the loss that quantization brings.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from ttt_export.weights import Float32Array
from ttt_quant.scheme import BlockQuantized, unpack_nibbles
from ttt_ref.config import ModelConfig, TokenLayout
from ttt_runtime.bundle.embeddings import EmbeddingTable
from ttt_runtime.bundle.graph_spec import DECODER, SPEECH_HEAD, TEXT_HEAD

_TYPES: dict[int, Any] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.BFLOAT16: ml_dtypes.bfloat16,
    TensorProto.INT8: np.int8,
    TensorProto.FLOAT8E4M3FN: ml_dtypes.float8_e4m3fn,
}


class GraphTensors:
    """The initializers of one graph, read from its files when asked for."""

    def __init__(self, path: Path) -> None:
        model = onnx.load(str(path), load_external_data=False)
        self._folder = path.parent
        self._initializers = {proto.name: proto for proto in model.graph.initializer}
        self._blocks = {
            node.output[0]: a.i
            for node in model.graph.node
            if node.op_type == "DequantizeLinear"
            for a in node.attribute
            if a.name == "block_size"
        }

    def matrix(self, name: str) -> BlockQuantized | NDArray[Any]:
        """Return the matrix W [K, N] of this name as it is stored."""
        if f"{name}.codes" not in self._initializers:
            return self.values(f"{name}.weight")
        if self._initializers[f"{name}.codes"].data_type == TensorProto.FLOAT8E4M3FN:
            wide = self.values(f"{name}.codes").astype(np.float32)
            return wide * self.values(f"{name}.scales").astype(np.float32)
        zeros = self.values(f"{name}.zeros") if f"{name}.zeros" in self._initializers else None
        bits = 4 if self._initializers[f"{name}.codes"].data_type == TensorProto.INT4 else 8
        scales = self.values(f"{name}.scales").astype(np.float32)
        codes = self.values(f"{name}.codes")
        block = self._blocks.get(f"{name}.weight", len(codes))  # without: one scale a column
        return BlockQuantized(codes, scales.reshape(-1, codes.shape[1]), zeros, bits, block)

    def values(self, name: str) -> NDArray[Any]:
        """Return an initializer; 4-bit codes come as int8."""
        proto = self._initializers[name]
        if proto.data_location != TensorProto.EXTERNAL:
            return numpy_helper.to_array(proto)
        place = {entry.key: entry.value for entry in proto.external_data}
        with (self._folder / place["location"]).open("rb") as file:
            file.seek(int(place["offset"]))
            data = file.read(int(place["length"]))
        shape = tuple(proto.dims)
        if proto.data_type == TensorProto.INT4:
            return unpack_nibbles(np.frombuffer(data, np.uint8), math.prod(shape)).reshape(shape)
        return np.frombuffer(data, _TYPES[proto.data_type]).reshape(shape)


class BundleWeights:
    """A weight source over the graphs and the embedding table of a bundle folder.

    Args:
        folder: holds decoder.onnx, text_head.onnx and speech_head.onnx.
        config: shape of the model.
        layout: token ids.
        table: the bundle's embedding table.
    """

    def __init__(
        self, folder: Path, config: ModelConfig, layout: TokenLayout, table: EmbeddingTable
    ) -> None:
        self.decoder = GraphTensors(folder / f"{DECODER}.onnx")
        self._heads = [GraphTensors(folder / f"{n}.onnx") for n in (TEXT_HEAD, SPEECH_HEAD)]
        self._config = config
        self._layout = layout
        self._table = table
        self._held: tuple[str, BlockQuantized | NDArray[Any]] | None = None

    def names(self) -> list[str]:
        """Return nothing: this source is read by known names only."""
        return []

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            return self._config.vocab_size, self._config.hidden_size
        return self._tensor(name).shape

    def rows(self, name: str, start: int, stop: int) -> Float32Array:
        """Return rows start..stop-1 of a tensor as float32."""
        if name == "model.embed_tokens.weight":
            out = np.empty((stop - start, self._config.hidden_size), np.float32)
            self._table.gather(np.arange(start, stop), out)
            return out
        if name == "lm_head.weight":
            return self._head_rows(start, stop)
        return self._tensor(name)[start:stop]

    def _rows(self, graph: GraphTensors, name: str, start: int, stop: int) -> Float32Array:
        """Return columns start..stop-1 of W as rows of the checkpoint's tensor."""
        # The parts of a fused matrix are asked for one after the other: read it once, but never
        # hold all of it as floats: the text head of a 3B model would be 1.2 GB.
        if self._held is None or self._held[0] != name:
            self._held = (name, graph.matrix(name))
        stored = self._held[1]
        if isinstance(stored, BlockQuantized):
            part = stored.columns(start, stop).dequantize()
        else:
            part = stored[:, start:stop].astype(np.float32)
        if stop == (stored.codes if isinstance(stored, BlockQuantized) else stored).shape[1]:
            self._held = None  # read to its end: the session that follows needs the room
        return np.ascontiguousarray(part.T)

    def _head_rows(self, start: int, stop: int) -> Float32Array:
        edge = self._layout.audio_start
        parts = []
        for graph, name, low, high in (
            (self._heads[0], TEXT_HEAD, 0, edge),
            (self._heads[1], SPEECH_HEAD, edge, self._config.vocab_size),
        ):
            first, last = max(start, low), min(stop, high)
            if first < last:
                parts.append(self._rows(graph, name, first - low, last - low))
        return np.concatenate(parts)

    def _tensor(self, name: str) -> Float32Array:
        if name == "model.norm.weight":
            return self._vector("norm.scale")
        _, _, index, *rest = name.split(".")
        layer = f"layers.{index}"
        if rest[0] == "input_layernorm":
            return self._vector(f"{layer}.attn.norm.scale")
        if rest[0] == "post_attention_layernorm":
            return self._vector(f"{layer}.mlp.norm.scale")
        projection, kind = rest[1].removesuffix("_proj"), rest[2]
        if projection in "qkv":
            heads, kv = (
                count * self._config.head_dim
                for count in (self._config.num_attention_heads, self._config.num_key_value_heads)
            )
            edges = [0, heads, heads + kv, heads + 2 * kv]
            part = "qkv".index(projection)
            if kind == "bias":
                return self._vector(f"{layer}.attn.bias")[edges[part] : edges[part + 1]]
            return self._rows(self.decoder, f"{layer}.attn.qkv", edges[part], edges[part + 1])
        config = self._config
        name, start, stop = {
            "o": ("attn.out", 0, config.hidden_size),
            "down": ("mlp.down", 0, config.hidden_size),
            "gate": ("mlp.gate_up", 0, config.intermediate_size),
            "up": ("mlp.gate_up", config.intermediate_size, 2 * config.intermediate_size),
        }[projection]
        return self._rows(self.decoder, f"{layer}.{name}", start, stop)

    def _vector(self, name: str) -> Float32Array:
        return self.decoder.values(name).astype(np.float32)
