"""The decoder's parts in operators that TensorRT 10.0 and onnxruntime 1.20 know.

Names of weights and of the tensors between the layers are those of the standard form, so whatever
reads or cuts one form reads the other. All scores of a key-value head's group of G query heads are
one product: queries are laid out as [1, kv_heads, Q * G, D], so the cache is read once for the
whole group.

    Q  query rows    C  cache rows    G  query heads that share a key-value head    D  head size
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttt_export.linear import NUMPY_FLOATS, cast
from ttt_export.operators import Operators, rotary_angles, split

# Added to a score that the mask forbids: exp() of it is 0 in the type that is computed with.
FORBIDDEN = {"float32": -1e9, "bfloat16": -1e9, "float16": -3e4}


class BasicOperators(Operators):
    """Norms, rotation, cache and attention of basic operators."""

    @property
    def _kv(self) -> int:
        return self._config.num_key_value_heads

    @property
    def _group(self) -> int:
        return self._config.num_attention_heads // self._config.num_key_value_heads

    def begin(self) -> None:
        """See `Operators.begin`."""
        writer = self._writer
        writer.constant("epsilon", np.array(self._config.rms_norm_eps, np.float32))
        writer.constant("two", np.array(2.0, np.float32))
        cos, sin = rotary_angles(writer, self._config, self._compute)
        # x * [cos, cos] + [x2, x1] * [-sin, sin] turns both halves x1, x2 of a head at once.
        minus = writer.node("Neg", [sin], "rotary.minus_sin")
        heads_axis = writer.constant("axis.heads", np.array([2], np.int64))
        for name, halves in (("cos", [cos, cos]), ("sin", [minus, sin])):
            wide = writer.node("Concat", halves, f"rotary.{name}_wide", axis=-1)
            writer.node("Unsqueeze", [wide, heads_axis], f"rotary.{name}_heads")  # [1, Q, 1, D]
        self._write_rows()
        self._write_bias()

    def norm(self, x: str, name: str, scale: NDArray[Any], output: str | None) -> str:
        """See `Operators.norm`; the mean of squares is taken in float32."""
        writer = self._writer
        wide = x if self._compute == "float32" else cast(writer, x, f"{name}.wide", "float32")
        square = writer.node("Pow", [wide, "two"], f"{name}.square")
        mean = writer.node("ReduceMean", [square, "last_axis"], f"{name}.mean", keepdims=1)
        shifted = writer.node("Add", [mean, "epsilon"], f"{name}.shifted")
        root = writer.node("Sqrt", [shifted], f"{name}.root")
        unit = writer.node("Div", [wide, root], f"{name}.unit")
        if self._compute != "float32":
            unit = cast(writer, unit, f"{name}.narrow", self._compute)
        weight = writer.constant(f"{name}.scale", scale)
        return writer.node("Mul", [unit, weight], output or f"{name}.normed")

    def attend(self, index: int, qk: str, v: str) -> str:
        """See `Operators.attend`."""
        writer, config, name = self._writer, self._config, f"layers.{index}.attn"
        heads, kv, group, size = config.num_attention_heads, self._kv, self._group, config.head_dim
        q, k = self._rotate(qk, name)
        q = self._shaped(q, [1, -1, kv, group, size], f"{name}.q_groups")
        q = writer.node("Transpose", [q], f"{name}.q_by_kv", perm=[0, 2, 1, 3, 4])
        q = self._shaped(q, [1, kv, -1, size], f"{name}.q_rows")  # [1, KV, Q * G, D]
        scale: NDArray[Any] = np.array(size**-0.5, NUMPY_FLOATS[self._compute])
        q = writer.node("Mul", [q, writer.constant("score_scale", scale)], f"{name}.q_scaled")
        keys, values = (self._cached(index, kind, rows) for kind, rows in (("k", k), ("v", v)))
        scores = writer.node("MatMul", [q, keys], f"{name}.scores")  # [1, KV, Q * G, C]
        seen = writer.node("Add", [scores, "mask.bias"], f"{name}.seen_scores")
        weights = writer.node("Softmax", [seen], f"{name}.weights", axis=-1)
        mixed = writer.node("MatMul", [weights, values], f"{name}.mixed_rows")
        mixed = self._shaped(mixed, [1, kv, -1, group, size], f"{name}.mixed_groups")
        mixed = writer.node("Transpose", [mixed], f"{name}.mixed_by_row", perm=[0, 2, 1, 3, 4])
        return self._shaped(mixed, [1, -1, heads * size], f"{name}.mixed")

    def _write_rows(self) -> None:
        """Add where the new rows go: indices of ScatterND, [1, Q, 2] or [1, KV, Q, 3]."""
        writer = self._writer
        for name, value in (("zero", 0), ("one", 1)):
            writer.constant(f"index.{name}", np.array(value, np.int64))
        shape = writer.node("Shape", ["positions"], "rows.shape")
        count = writer.node("Gather", [shape, "index.one"], "rows.count", axis=0)
        order = writer.node("Range", ["index.zero", count, "index.one"], "rows.order")
        place = writer.node("Add", [order, "write_index"], "rows.place")  # [Q]
        if not self._by_heads:
            column = self._shaped(place, [1, -1, 1], "rows.column")
            first = writer.node("Mul", [column, "index.zero"], "rows.first")
            writer.node("Concat", [first, column], "rows.indices", axis=-1)
            return
        # Zeros of the result's shape bring each of the three parts to it.
        heads = writer.constant(
            "rows.head_numbers", np.arange(self._kv, dtype=np.int64).reshape(1, self._kv, 1, 1)
        )
        column = self._shaped(place, [1, 1, -1, 1], "rows.column")
        nothing = writer.node("Mul", [heads, "index.zero"], "rows.no_head")
        row = writer.node("Add", [column, nothing], "rows.row")  # [1, KV, Q, 1]
        first = writer.node("Mul", [row, "index.zero"], "rows.first")
        head = writer.node("Add", [first, heads], "rows.head")
        writer.node("Concat", [first, head, row], "rows.indices", axis=-1)

    def _write_bias(self) -> None:
        """Add the mask as a bias of the scores, [Q * G, C]: each row once for every head of G."""
        writer = self._writer
        kind = NUMPY_FLOATS[self._compute]
        seen = writer.constant("mask.seen", np.zeros(1, kind))
        unseen = writer.constant("mask.unseen", np.array([FORBIDDEN[self._compute]], kind))
        bias = writer.node("Where", ["mask", seen, unseen], "mask.flat")
        middle = writer.constant("axis.group", np.array([1], np.int64))
        bias = writer.node("Unsqueeze", [bias, middle], "mask.row")  # [Q, 1, C]
        zeros = writer.constant("mask.group", np.zeros((1, self._group, 1), kind))
        bias = writer.node("Add", [bias, zeros], "mask.rows")  # [Q, G, C]
        # The number of columns is the mask's own: it may be open.
        shape = writer.node("Shape", ["mask"], "mask.shape")
        last = writer.constant("index.last", np.array([1], np.int64))
        columns = writer.node("Gather", [shape, last], "mask.columns", axis=0)
        any_rows = writer.constant("index.any", np.array([-1], np.int64))
        target = writer.node("Concat", [any_rows, columns], "mask.target", axis=0)
        writer.node("Reshape", [bias, target], "mask.bias")

    def _rotate(self, qk: str, name: str) -> tuple[str, str]:
        """Return queries [1, Q, H, D] and keys [1, Q, KV, D], turned."""
        writer, size = self._writer, self._config.head_dim
        heads = self._config.num_attention_heads
        x = self._shaped(qk, [1, -1, heads + self._kv, size], f"{name}.by_head")
        halves = split(writer, x, [size // 2] * 2, [f"{name}.half_1", f"{name}.half_2"])
        swapped = writer.node("Concat", halves[::-1], f"{name}.swapped", axis=-1)
        straight = writer.node("Mul", [x, "rotary.cos_heads"], f"{name}.straight")
        crossed = writer.node("Mul", [swapped, "rotary.sin_heads"], f"{name}.crossed")
        turned = writer.node("Add", [straight, crossed], f"{name}.turned")
        sizes = writer.constant("sizes.heads", np.array([heads, self._kv], np.int64))
        q, k = writer.nodes("Split", [turned, sizes], [f"{name}.q", f"{name}.k"], axis=2)
        return q, k

    def _cached(self, index: int, kind: str, rows: str) -> str:
        """Write rows into the cache; returns keys [1, KV, D, C] or values [1, KV, C, D]."""
        writer, kv, size = self._writer, self._kv, self._config.head_dim
        name = f"layers.{index}.attn.{kind}"
        if not self._by_heads:
            rows = self._shaped(rows, [1, -1, kv * size], f"{name}.flat")
        else:
            if kind == "v":
                rows = self._shaped(rows, [1, -1, kv, size], f"{name}.rows")
            rows = writer.node("Transpose", [rows], f"{name}.heads", perm=[0, 2, 1, 3])
        update = self._cache.narrow(rows, kind, index)
        operands = [f"past_{kind}.{index}", "rows.indices", update]
        present = writer.node("ScatterND", operands, f"present_{kind}.{index}")
        read = self._cache.widen(present, kind, index)
        if self._by_heads:
            if kind == "v":
                return read
            return writer.node("Transpose", [read], f"{name}.columns", perm=[0, 1, 3, 2])
        read = self._shaped(read, [1, -1, kv, size], f"{name}.cache")
        perm = [0, 2, 3, 1] if kind == "k" else [0, 2, 1, 3]
        return writer.node("Transpose", [read], f"{name}.columns", perm=perm)

    def _shaped(self, x: str, shape: list[int], output: str) -> str:
        name = "shape." + "_".join(map(str, shape))
        target = self._writer.constant(name, np.array(shape, np.int64))
        return self._writer.node("Reshape", [x, target], output)
