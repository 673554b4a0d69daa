"""Read a GQA decoder or logits-only head as the matrices that it multiplies with.

The graph stays the truth: its nodes are compared with what the kernels compute, one by one, and
a graph that says anything else is left to onnxruntime.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ttt_ref.config import ModelConfig
from ttt_ref.errors import TttError
from ttt_runtime.backends.native.onnx_file import Node, OnnxFile

_MIDDLE: Final = 128  # zero of inputs and of 8-bit codes
_CONTRIB: Final = "com.microsoft"
_CONTRIB_NODES: Final = frozenset(
    {"MatMulNBits", "MatMulIntegerToFloat", "GroupQueryAttention", "QuickGelu"}
)
_INT32: Final = 6  # as onnx.proto numbers it
_FORBIDDEN: Final = -1e9  # what the graph adds to a score that the mask forbids


class NotNativeError(TttError):
    """A graph that the kernels do not compute; the message says why."""


@dataclass(frozen=True)
class StoredMatrix:
    """W [inputs, outputs] as the graph keeps it.

    Attributes:
        codes: uint8 [outputs, blocks, bytes], or int8 [inputs, outputs] if `by_rows`.
        scales: float32 [outputs, blocks], or [outputs] if `by_rows`.
        zeros: uint8 [outputs, bytes], or None where zero is the middle code.
        bias: float32 [outputs], or None.
        by_rows: one scale for each output, and one for each row of inputs.
        gated: two matrices side by side, gate and up.
    """

    inputs: int
    outputs: int
    bits: int
    block: int
    codes: NDArray[Any]
    scales: NDArray[Any]
    zeros: NDArray[Any] | None = None
    bias: NDArray[Any] | None = None
    by_rows: bool = False
    gated: bool = False


@dataclass(frozen=True)
class StoredLayer:
    """The matrices of a layer and its norms' weights [hidden]."""

    qkv: StoredMatrix
    out: StoredMatrix
    gate_up: StoredMatrix
    down: StoredMatrix
    attention_norm: NDArray[Any]
    mlp_norm: NDArray[Any]


class _Walk:
    """Goes through a graph's nodes in their order, each of which must be what is expected."""

    def __init__(self, file: OnnxFile) -> None:
        self._file = file
        self._nodes = iter(file.nodes)
        self._known = set(file.names())

    def next(
        self,
        op_type: str,
        *inputs: str,
        takes: int | None = None,
        most: int | None = None,
        gives: int = 1,
        **attributes: float | None,
    ) -> Node:
        """Return the next node; its first inputs and all its attributes must be these.

        An attribute of None may have any value.

        It takes `takes` inputs (default: those named) up to `most`, and gives `gives` outputs.
        """
        node = next(self._nodes, None)
        domain = _CONTRIB if op_type in _CONTRIB_NODES else ""
        if node is None or (node.op_type, node.domain) != (op_type, domain):
            seen = "the end" if node is None else repr(node.op_type)[:80]
            raise NotNativeError(f"the graph {self._file.path.name} has {seen} for {op_type}")
        if node.inputs[: len(inputs)] != inputs:
            raise NotNativeError(
                f"{op_type} in {self._file.path.name} takes {', '.join(node.inputs)[:80]!r}"
            )
        least = len(inputs) if takes is None else takes
        if not least <= len(node.inputs) <= (most or least) or len(node.outputs) != gives:
            raise NotNativeError(
                f"{op_type} in {self._file.path.name} has {len(node.inputs)} inputs and "
                f"{len(node.outputs)} outputs, not {least} and {gives}"
            )
        if more := node.attributes.keys() - attributes.keys():
            raise NotNativeError(f"{op_type} in {self._file.path.name} has {min(more)[:80]!r}")
        for name, value in attributes.items():
            if value is not None and not np.isclose(
                node.attributes.get(name, 0), value, rtol=1e-6, atol=0
            ):
                raise NotNativeError(
                    f"{op_type} in {self._file.path.name} has {name} "
                    f"{node.attributes.get(name)}, not {value}"
                )
        return node

    def finish(self) -> None:
        """Refuse nodes that are left."""
        node = next(self._nodes, None)
        if node is not None:
            raise NotNativeError(
                f"the graph {self._file.path.name} goes on with {node.op_type[:80]!r}"
            )

    def weight(self, name: str, dtype: str, *shape: int) -> NDArray[Any]:
        """Return an initializer of this type and shape."""
        if name not in self._known:
            raise NotNativeError(f"{name[:80]!r} in {self._file.path.name} is computed")
        array = self._file.tensor(name)
        if array.dtype != dtype or array.shape != shape:
            raise NotNativeError(
                f"{name[:80]!r} in {self._file.path.name} is {array.dtype} {array.shape}, "
                f"not {dtype} {shape}"
            )
        return array

    def numbers(self, name: str, *values: float) -> None:
        """Check an initializer that holds these numbers, whatever its shape."""
        array = self._file.tensor(name) if name in self._known else np.zeros(0)
        if array.size != len(values) or not np.allclose(array.ravel(), values, rtol=1e-6, atol=0):
            raise NotNativeError(f"{name[:80]!r} in {self._file.path.name} is not {values}")

    def whole(self, node: Node, name: str) -> int:
        """Return an attribute that is a whole number."""
        value = node.attributes.get(name)
        if not isinstance(value, int):
            raise NotNativeError(
                f"{node.op_type} in {self._file.path.name} has {name} {value}, no whole number"
            )
        return value

    # ---- products ----

    def product(self, x: str, inputs: int, outputs: int, *, by_rows: bool) -> tuple[Any, str]:
        """Return the next product of x [.., inputs] and the name of its result."""
        if by_rows:
            return self._rows_product(x, inputs, outputs)
        node = self.next(
            "MatMulNBits",
            x,
            takes=3,
            most=6,
            K=inputs,
            N=outputs,
            accuracy_level=4,
            bits=None,
            block_size=None,
        )
        bits, block = self.whole(node, "bits"), self.whole(node, "block_size")
        if bits not in (4, 8) or block <= 0 or inputs % block:
            raise NotNativeError(f"products of {bits} bits in blocks of {block}")
        blocks = inputs // block
        _, codes, scales, zeros, order, bias = (*node.inputs, "", "", "")[:6]
        if order:
            raise NotNativeError(f"{node.outputs[0]} reorders its inputs")
        packed = -(-blocks * bits // 8)
        return StoredMatrix(
            inputs,
            outputs,
            bits,
            block,
            self.weight(codes, "uint8", outputs, blocks, block * bits // 8),
            self.weight(scales, "float32", outputs, blocks),
            self.weight(zeros, "uint8", outputs, packed) if zeros else None,
            self.weight(bias, "float32", outputs) if bias else None,
        ), node.outputs[0]

    def _rows_product(self, x: str, inputs: int, outputs: int) -> tuple[Any, str]:
        # The rounding of x, as `ttt_export.gqa.products.RowProducts` writes it.
        high = self.next("ReduceMax", x, takes=2, keepdims=1)
        low = self.next("ReduceMin", x, takes=2, keepdims=1)
        for node in (high, low):
            self.numbers(node.inputs[1], -1)
        negative = self.next("Neg", low.outputs[0]).outputs[0]
        largest = self.next("Max", high.outputs[0], negative, takes=3)
        self.numbers(largest.inputs[2], 1e-30)
        peak = largest.outputs[0]
        scale = self.next("Mul", peak, takes=2)
        self.numbers(scale.inputs[1], 1 / 127)
        scales = self.next("Squeeze", scale.outputs[0], takes=2).outputs[0]
        rounded = self.next("QuantizeLinear", x, scales, "middles", axis=1).outputs[0]
        node = self.next("MatMulIntegerToFloat", rounded, takes=5)
        _, codes, one, weights_scales, middle = node.inputs
        self.numbers(one, 1)
        self.numbers(middle, _MIDDLE)
        product = self.next("Mul", node.outputs[0], scale.outputs[0]).outputs[0]
        return StoredMatrix(
            inputs,
            outputs,
            8,
            inputs,
            self.weight(codes, "int8", inputs, outputs),
            self.weight(weights_scales, "float32", outputs),
            by_rows=True,
        ), product


class GroupedGraph:
    """A GQA decoder, layer by layer.

    Args:
        path: the graph.
        model: shape of the model.
        by_rows: the second body's form (`ttt_runtime.bundle.gqa_spec.BLOCK_DECODER`).

    Attributes:
        cos, sin: rotary angles [rows, head size / 2].
    """

    def __init__(self, path: Path, model: ModelConfig, *, by_rows: bool) -> None:
        file = OnnxFile.read(path)
        self._walk = _Walk(file)
        self._model = model
        self._by_rows = by_rows
        half = model.head_dim // 2
        tables = [file.tensor(name) for name in ("rotary.cos", "rotary.sin")]
        for table in tables:
            # The kernels read both by position, so one may not be shorter than the other.
            if table.dtype != np.float32 or table.shape != (*tables[0].shape[:1], half):
                raise NotNativeError(f"the graph {path.name} has other tables of rotary angles")
        self.cos: NDArray[Any] = tables[0]
        self.sin: NDArray[Any] = tables[1]
        self.norm: NDArray[Any] | None = None

    def layers(self) -> Iterator[StoredLayer]:
        """Yield the layers; afterwards `norm` is the last norm's weight [hidden].

        Raises:
            NotNativeError: the graph computes something else.
        """
        walk = self._walk
        if self._by_rows:
            walk.next("Shape", "positions", start=1, end=2)
            walk.numbers(walk.next("Expand", takes=2).inputs[0], _MIDDLE)
        length = walk.next("Shape", "mask", start=1, end=2).outputs[0]
        narrow = walk.next("Cast", length, to=_INT32).outputs[0]
        walk.numbers(walk.next("Sub", narrow, takes=2).inputs[1], 1)
        walk.next("Squeeze", narrow)
        bias = walk.next("Where", "mask", takes=3)
        walk.numbers(bias.inputs[1], 0)
        walk.numbers(bias.inputs[2], _FORBIDDEN)
        walk.numbers(walk.next("Unsqueeze", bias.outputs[0], takes=2).inputs[1], 0, 1)
        x = "embeds"
        for index in range(self._model.num_hidden_layers):
            layer, x = self._layer(index, x)
            yield layer
        self.norm, _ = self._norm(x)
        walk.finish()

    def _norm(self, x: str) -> tuple[NDArray[Any], str]:
        node = self._walk.next(
            "RMSNormalization", x, takes=2, axis=-1, stash_type=1, epsilon=self._model.rms_norm_eps
        )
        return self._walk.weight(node.inputs[1], "float32", self._model.hidden_size), node.outputs[
            0
        ]

    def _product(self, x: str, inputs: int, outputs: int) -> tuple[StoredMatrix, str]:
        return self._walk.product(x, inputs, outputs, by_rows=self._by_rows)

    def _layer(self, index: int, x: str) -> tuple[StoredLayer, str]:
        walk, model = self._walk, self._model
        hidden, wide = model.hidden_size, model.intermediate_size
        heads, kv_heads = model.num_attention_heads, model.num_key_value_heads
        attention_norm, normed = self._norm(x)
        qkv, projected = self._product(normed, hidden, (heads + 2 * kv_heads) * model.head_dim)
        if self._by_rows:
            add = walk.next("Add", projected, takes=2)
            bias = walk.weight(add.inputs[1], "float32", qkv.outputs)
            qkv = replace(qkv, bias=bias)
            projected = add.outputs[0]
        mixed = walk.next(
            "GroupQueryAttention",
            *(projected, "", "", f"past_k.{index}", f"past_v.{index}", "context.last"),
            *("context.total", "rotary.cos", "rotary.sin", "positions", "context.bias"),
            gives=3,
            num_heads=heads,
            kv_num_heads=kv_heads,
            do_rotary=1,
            rotary_interleaved=0,
            causal=0,
            scale=1,
        ).outputs[0]
        out, added = self._product(mixed, heads * model.head_dim, hidden)
        x = walk.next("Add", x, added).outputs[0]
        mlp_norm, normed = self._norm(x)
        gate_up, both = self._product(normed, hidden, 2 * wide)
        split = walk.next("Split", both, takes=2, gives=2, axis=-1)
        walk.numbers(split.inputs[1], wide, wide)
        gate, up = split.outputs
        silu = walk.next("QuickGelu", gate, alpha=1).outputs[0]
        gated = walk.next("Mul", silu, up).outputs[0]
        down, added = self._product(gated, wide, hidden)
        x = walk.next("Add", x, added).outputs[0]
        gate_up = replace(gate_up, gated=True)
        return StoredLayer(qkv, out, gate_up, down, attention_norm, mlp_norm), x


def read_head(path: Path, hidden: int, rows: int) -> StoredMatrix:
    """Return the matrix of a logits-only head [hidden, rows]; else NotNativeError."""
    walk = _Walk(OnnxFile.read(path))
    matrix: StoredMatrix
    matrix, product = walk.product("hidden", hidden, rows, by_rows=False)
    walk.next("Identity", product)
    walk.finish()
    return matrix
