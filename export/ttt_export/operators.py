"""What a decoder's layers are made of: the operators of ONNX opset 24, or basic ones.

The emitter streams weights and joins the parts; a set of operators writes those parts that differ:
norms, rotation, cache and attention. See `basic_operators` for the other set.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ttt_export.cache_types import CacheStore
from ttt_export.linear import cast, emit_norm
from ttt_export.writer import ONNX_TYPES, GraphWriter
from ttt_ref.config import ModelConfig
from ttt_runtime.bundle.graph_spec import GraphSpec


class Operators(ABC):
    """Writes the parts of a decoder that hold no matrices.

    Args:
        writer: graph under construction.
        config: shape of the model.
        spec: the graph's inputs and outputs.
        cache: narrows what is cached, and widens what is read.
    """

    def __init__(
        self, writer: GraphWriter, config: ModelConfig, spec: GraphSpec, cache: CacheStore
    ) -> None:
        self._writer = writer
        self._config = config
        self._by_heads = spec.attributes["cache_layout"] == "heads"
        self._compute = spec.input("embeds").dtype
        self._cache = cache

    @abstractmethod
    def begin(self) -> None:
        """Write what all layers share, such as the rotary angles of the rows."""

    @abstractmethod
    def norm(self, x: str, name: str, scale: NDArray[Any], output: str | None) -> str:
        """Write the norm of x [1, Q, hidden]; returns its output's name."""

    @abstractmethod
    def attend(self, index: int, qk: str, v: str) -> str:
        """Rotate, write the cache and attend.

        Args:
            index: number of the layer.
            qk: queries and keys before rotation, [1, Q, (heads + kv_heads) * D].
            v: values [1, Q, kv_heads * D].

        Returns:
            name of the mixed values [1, Q, heads * D].
        """


def rotary_angles(writer: GraphWriter, config: ModelConfig, compute: str) -> tuple[str, str]:
    """Write cosines and sines of the rows' angles [1, Q, D/2]; returns both names."""
    # The very expression of the reference, so that the frequencies are equal to the last bit.
    pairs = torch.arange(0, config.head_dim, 2, dtype=torch.float32)
    frequency = 1.0 / config.rope_theta ** (pairs / config.head_dim)
    writer.constant("rotary.frequency", frequency.numpy())
    writer.constant("last_axis", np.array([-1], dtype=np.int64))
    wide = writer.node("Cast", ["positions"], "rotary.position", to=ONNX_TYPES["float32"])
    column = writer.node("Unsqueeze", [wide, "last_axis"], "rotary.column")
    angle = writer.node("Mul", [column, "rotary.frequency"], "rotary.angle")
    both = []
    for op in ("Cos", "Sin"):
        name = writer.node(op, [angle], f"rotary.{op.lower()}")
        if compute != "float32":
            name = cast(writer, name, f"{name}.cast", compute)
        both.append(name)
    return both[0], both[1]


def split(writer: GraphWriter, x: str, sizes: list[int], outputs: list[str]) -> list[str]:
    """Split the last axis of x; returns the names of the parts."""
    name = writer.constant("sizes." + "_".join(map(str, sizes)), np.array(sizes, dtype=np.int64))
    return writer.nodes("Split", [x, name], outputs, axis=-1)


class StandardOperators(Operators):
    """RMSNormalization, RotaryEmbedding, TensorScatter and Attention (opset 24)."""

    def begin(self) -> None:
        """See `Operators.begin`."""
        self._angles = rotary_angles(self._writer, self._config, self._compute)

    def norm(self, x: str, name: str, scale: NDArray[Any], output: str | None) -> str:
        """See `Operators.norm`."""
        return emit_norm(self._writer, x, name, scale, self._config.rms_norm_eps, output)

    def attend(self, index: int, qk: str, v: str) -> str:
        """See `Operators.attend`."""
        writer, config, name = self._writer, self._config, f"layers.{index}.attn"
        query, kv = (
            heads * config.head_dim
            for heads in (config.num_attention_heads, config.num_key_value_heads)
        )
        # q and k turn by the same angles: one rotation over all their heads.
        turned = writer.node(
            "RotaryEmbedding",
            [qk, *self._angles],
            f"{name}.turned",
            num_heads=config.num_attention_heads + config.num_key_value_heads,
        )
        q, k = split(writer, turned, [query, kv], [f"{name}.q", f"{name}.k"])
        if self._by_heads:  # TensorRT takes caches of four axes only
            q = self._heads_of(q, config.num_attention_heads)
            k = self._heads_of(k, config.num_key_value_heads)
            v = self._heads_of(v, config.num_key_value_heads)
        read = []
        for kind, rows in (("k", k), ("v", v)):
            update = self._cache.narrow(rows, kind, index)
            operands = [f"past_{kind}.{index}", update, "write_index"]
            present = writer.node("TensorScatter", operands, f"present_{kind}.{index}", axis=-2)
            read.append(self._cache.widen(present, kind, index))
        operands = [q, *read, "mask"]
        if not self._by_heads:
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

    def _heads_of(self, x: str, heads: int) -> str:
        """Turn rows [1, Q, heads * D] into heads [1, heads, Q, D]."""
        shape = np.array([1, -1, heads, self._config.head_dim], dtype=np.int64)
        target = self._writer.constant(f"shape.heads_{heads}", shape)
        rows = self._writer.node("Reshape", [x, target], f"{x}.rows")
        return self._writer.node("Transpose", [rows], f"{x}.heads", perm=[0, 2, 1, 3])
