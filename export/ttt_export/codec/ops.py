"""Emit the layers that speech codecs are made of, from torch tensors, in one of three precisions.

Graphs are written node by node rather than traced: a trace of the real codec takes minutes and
leaves shape arithmetic that engines stumble over.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ttt_export.linear import NUMPY_FLOATS, Matrix, cast, emit_linear
from ttt_export.weights import WeightSource
from ttt_export.writer import GraphWriter
from ttt_quant.rtn import quantize_rtn
from ttt_quant.scheme import BlockQuantized, Float32Array, Scheme
from ttt_runtime.bundle.graph_spec import GraphSpec

# float: weights of the compute type.
# half, stored: float16 or int8 weights, widened once when the graph is loaded.
# blocks: int8 weights in blocks of input channels, dequantized in front of the product.
# dynamic: int8 weights times activations rounded to 8 bit as they come.
Weights = Literal["float", "half", "stored", "blocks", "dynamic"]
MIN_QUANTIZED = 4_096  # smaller weights are not worth it
_END = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Precision:
    """How a graph computes and how it stores its weights.

    Attributes:
        compute: float32 or float16.
        linear: storage of matrices.
        conv: storage of convolutions: float, half, stored or dynamic (see `Ops.conv_rows`).
    """

    compute: str = "float32"
    linear: Weights = "float"
    conv: Weights = "float"


class _Rounding:
    """Round to nearest: what `emit_linear` asks of a quantizer."""

    def prepare_layer(self, index: int, source: WeightSource) -> WeightSource:
        return source

    def prepare_heads(self, source: WeightSource) -> None:
        return None

    def input_peak(self, name: str) -> float | None:
        return None  # the codec's inputs are not rounded

    def quantize(self, weight: Float32Array, scheme: Scheme, name: str) -> BlockQuantized:
        return quantize_rtn(weight, scheme)


def array(tensor: Tensor) -> Float32Array:
    """Return a torch tensor as float32."""
    values: Float32Array = tensor.detach().float().cpu().numpy()
    return values


class Ops:
    """Writes one graph. Every method adds nodes and returns the name of the result.

    Args:
        path: the `.onnx` file.
        precision: of the graph.
    """

    def __init__(self, path: Path, precision: Precision) -> None:
        self.writer = GraphWriter(path)
        self.precision = precision
        self._count = 0

    def finish(self, spec: GraphSpec) -> None:
        """Write the file."""
        with self.writer as writer:
            writer.finish(spec)

    def _name(self, hint: str) -> str:
        self._count += 1
        return f"{hint}.{self._count}"

    # Constants -----------------------------------------------------------------------------

    def const(self, value: NDArray[Any] | float | Tensor) -> str:
        """Add a constant of the compute type."""
        values = array(value) if isinstance(value, Tensor) else np.asarray(value)
        kind = NUMPY_FLOATS[self.precision.compute]
        return self.writer.constant(self._name("const"), values.astype(kind))

    def const32(self, value: NDArray[Any] | float | Tensor) -> str:
        """Add a float32 constant."""
        values = array(value) if isinstance(value, Tensor) else np.asarray(value)
        return self.writer.constant(self._name("const"), values.astype(np.float32))

    def ints(self, *values: int) -> str:
        """Add an int64 vector; equal ones are added once."""
        name = "ints." + "_".join(map(str, values))
        return self.writer.constant(name, np.array(values, dtype=np.int64))

    def big(self, name: str, value: Float32Array, kind: str | None = None) -> str:
        """Add a large float weight to the data file, of the compute type unless said."""
        kind = kind or self.precision.compute
        made: NDArray[Any] = np.ascontiguousarray(value.astype(NUMPY_FLOATS[kind]))
        return self.writer.weight(name, kind, made.shape, [made])

    def rows(self, name: str, table: Float32Array, index: str) -> str:
        """Look rows up in a large table; all but plain float32 graphs hold it in float16."""
        stored = self.big(name, table, "float16" if self.is_small else "float32")
        found = self.node("Gather", stored, index, axis=0)
        if self.is_small and self.precision.compute != "float16":
            return self.cast(found, self.precision.compute)
        return found

    @property
    def is_small(self) -> bool:
        """True if weights are stored in fewer than 32 bits."""
        return self.precision != Precision()

    # Plain nodes ---------------------------------------------------------------------------

    def node(self, op: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """Add a node with one output."""
        return self.writer.node(op, list(inputs), out or self._name(op), **attributes)

    def split(self, x: str, sizes: list[int], axis: int) -> list[str]:
        """Cut an axis into parts of given sizes."""
        outs = [self._name("Split") for _ in sizes]
        return self.writer.nodes("Split", [x, self.ints(*sizes)], outs, axis=axis)

    def cast(self, x: str, dtype: str, out: str | None = None) -> str:
        """Change the element type."""
        return cast(self.writer, x, out or self._name("Cast"), dtype)

    def computed(self, x: str) -> str:
        """Turn a float32 input into the compute type."""
        return x if self.precision.compute == "float32" else self.cast(x, self.precision.compute)

    def to_float32(self, x: str, out: str | None = None) -> str:
        """Turn a result into float32; an Identity gives it the output's name if need be."""
        if self.precision.compute != "float32":
            return self.cast(x, "float32", out)
        return x if out is None else self.node("Identity", x, out=out)

    def reshape(self, x: str, *shape: int) -> str:
        """Reshape; 0 keeps an axis, -1 takes what is left."""
        return self.node("Reshape", x, self.ints(*shape))

    def transpose(self, x: str, *perm: int) -> str:
        """Permute axes."""
        return self.node("Transpose", x, perm=list(perm))

    def slice(self, x: str, start: int, end: int, axis: int) -> str:
        """Cut a constant range of an axis."""
        return self.node("Slice", x, self.ints(start), self.ints(end), self.ints(axis))

    # Layers --------------------------------------------------------------------------------

    def linear(self, x: str, name: str, weight: Tensor, bias: Tensor | None = None) -> str:
        """Add x [.., K] @ weight [N, K]^T + bias."""
        values = np.ascontiguousarray(array(weight).T)
        kind = self.precision.linear if values.size >= MIN_QUANTIZED else "float"
        if kind == "dynamic":
            product = self._dynamic(x, name, values)
        elif kind in ("half", "stored"):
            product = self.node("MatMul", x, self._widened(name, values, kind, axis=1))
        else:
            scheme = Scheme("int8", 128) if kind == "blocks" else Scheme(self.precision.compute)
            matrix = Matrix(name, values.shape[0], values.shape[1], lambda a, b: values[:, a:b])
            fitted = scheme.fitted(values.shape[0])
            product = emit_linear(
                self.writer, x, matrix, fitted, self.precision.compute, _Rounding()
            )
        return product if bias is None else self.node("Add", product, self.const(bias))

    def _widened(self, name: str, values: Float32Array, kind: Weights, axis: int) -> str:
        """Add a weight stored small; engines fold what widens it.

        int8 values have a scale for each index of `axis`.
        """
        compute = self.precision.compute
        if kind == "half":
            return self.cast(self.big(f"{name}.half", values, "float16"), compute)
        others = tuple(a for a in range(values.ndim) if a != axis)
        scale = np.maximum(np.abs(values).max(axis=others, keepdims=True), 1e-12) / 127.0
        codes = np.rint(values / scale).astype(np.int8)
        stored = self.writer.weight(f"{name}.codes", "int8", codes.shape, [codes])
        return self.node("Mul", self.cast(stored, compute), self.const(scale))

    def _dynamic(self, x: str, name: str, values: Float32Array) -> str:
        """Round activations to uint8 over the whole tensor and multiply integers."""
        rounded, step, zero = (self._name("Dynamic") for _ in range(3))
        self.writer.nodes("DynamicQuantizeLinear", [x], [rounded, step, zero])
        return self._integer_product(rounded, step, zero, name, values)

    def _integer_product(
        self, rounded: str, step: str, zero: str, name: str, values: Float32Array
    ) -> str:
        """Multiply uint8 activations with int8 weights [K, N], a scale for each column."""
        scale = np.maximum(np.abs(values).max(axis=0), 1e-12) / 127.0
        codes = np.rint(values / scale).astype(np.int8)
        stored = self.writer.weight(f"{name}.codes", "int8", codes.shape, [codes])
        whole = self.node("MatMulInteger", rounded, stored, zero)
        back = self.node("Mul", step, self.const32(scale))
        return self.node("Mul", self.cast(whole, "float32"), back)

    def layer_norm(self, x: str, norm: nn.LayerNorm) -> str:
        """Normalize the last axis."""
        scale, bias = self.const(norm.weight), self.const(norm.bias)
        return self.node("LayerNormalization", x, scale, bias, axis=-1, epsilon=norm.eps)

    def conv(self, x: str, name: str, conv: nn.Conv1d, pad: bool = True) -> str:
        """Convolve [B, C, F]."""
        weight = self._conv_weight(name, conv.weight, axis=0)
        padding = int(conv.padding[0]) if pad else 0
        return self.node(
            "Conv",
            x,
            weight,
            *([] if conv.bias is None else [self.const(conv.bias)]),
            kernel_shape=[conv.kernel_size[0]],
            strides=[conv.stride[0]],
            dilations=[conv.dilation[0]],
            pads=[padding, padding],
        )

    def conv_rows(self, x: str, name: str, conv: nn.Conv1d) -> str:
        """Convolve [B, F, C], channels last, as one integer product over shifted copies.

        onnxruntime's integer convolution is three times slower than its float one; this is two
        to four times faster.
        """
        (taps,), (dilation,), pad = conv.kernel_size, conv.dilation, int(conv.padding[0])
        values = array(conv.weight).transpose(2, 1, 0)  # [k, C, O]
        rounded, step, zero = (self._name("Dynamic") for _ in range(3))
        self.writer.nodes("DynamicQuantizeLinear", [x], [rounded, step, zero])
        padded = (
            self.node("Pad", rounded, self.ints(0, pad, 0, 0, pad, 0), zero) if pad else rounded
        )
        reach = (taps - 1) * dilation
        shifted = [
            self.slice(padded, tap * dilation, tap * dilation - reach or _END, 1)
            for tap in range(taps)
        ]
        wide = shifted[0] if taps == 1 else self.node("Concat", *shifted, axis=2)
        matrix = np.ascontiguousarray(values.reshape(-1, values.shape[2]))
        product = self._integer_product(wide, step, zero, name, matrix)
        return product if conv.bias is None else self.node("Add", product, self.const(conv.bias))

    def conv_transpose(self, x: str, name: str, conv: nn.ConvTranspose1d) -> str:
        """Convolve [B, C, F] to a higher rate."""
        assert conv.bias is not None
        padding = int(conv.padding[0])
        return self.node(
            "ConvTranspose",
            x,
            self._conv_weight(name, conv.weight, axis=1),
            self.const(conv.bias),
            kernel_shape=[conv.kernel_size[0]],
            strides=[conv.stride[0]],
            pads=[padding, padding],
        )

    def _conv_weight(self, name: str, weight: Tensor, axis: int) -> str:
        values = array(weight)
        if self.precision.conv != "float" and values.size >= MIN_QUANTIZED:
            kind: Weights = "half" if self.precision.conv == "half" else "stored"
            return self._widened(f"{name}.weight", values, kind, axis)
        return self.big(f"{name}.weight", values)

    def group_norm(self, x: str, norm: nn.GroupNorm) -> str:
        """Normalize groups of channels over channels and time: [B, C, F]."""
        groups, channels = norm.num_groups, norm.num_channels
        ones, zeros = self.const(np.ones(groups)), self.const(np.zeros(groups))
        grouped = self.reshape(x, 0, groups, -1)
        normed = self.node("InstanceNormalization", grouped, ones, zeros, epsilon=norm.eps)
        back = self.node("Reshape", normed, self.node("Shape", x))
        scale = self.const(array(norm.weight).reshape(1, channels, 1))
        bias = self.const(array(norm.bias).reshape(1, channels, 1))
        return self.node("Add", self.node("Mul", back, scale), bias)

    def heads(self, x: str, heads: int, head_dim: int) -> str:
        """Turn [B, L, H * D] into [B, H, L, D]."""
        return self.transpose(self.reshape(x, 0, -1, heads, head_dim), 0, 2, 1, 3)

    def attend(self, q: str, k: str, v: str, bias: str | None, width: int) -> str:
        """Mix heads: q (already scaled), k, v [B, H, L, D] and a score bias to [B, L, H * D]."""
        scores = self.node("MatMul", q, self.transpose(k, 0, 1, 3, 2))
        if bias is not None:
            scores = self.node("Add", scores, bias)
        mixed = self.node("MatMul", self.node("Softmax", scores, axis=-1), v)
        return self.reshape(self.transpose(mixed, 0, 2, 1, 3), 0, -1, width)

    def gelu(self, x: str) -> str:
        """Return x Phi(x), by the error function."""
        return self.node("Gelu", x)

    def silu(self, x: str) -> str:
        """Return x sigmoid(x)."""
        return self.node("Mul", x, self.node("Sigmoid", x))

    def mish(self, x: str) -> str:
        """Return x tanh(log(1 + e^x)) as x w / (w + 2), w = e^x (e^x + 2): one exponential."""
        limit = 5.0 if self.precision.compute == "float16" else 20.0  # e^2x must stay finite
        e = self.node("Exp", self.node("Min", x, self.const(limit)))
        two = self.const(2.0)
        w = self.node("Mul", e, self.node("Add", e, two))
        return self.node("Mul", x, self.node("Div", w, self.node("Add", w, two)))

    def score_bias(self, may_attend: str, *shape: int) -> str:
        """Turn a boolean mask into a score bias of the given shape: 0 or very negative."""
        low = -6e4 if self.precision.compute == "float16" else -1e30
        bias = self.node("Where", may_attend, self.const(0.0), self.const(low))
        return self.reshape(bias, *shape)
