"""The unrounded copy of a GQA decoder: the same weights, products of unrounded inputs.

A shipped graph rounds what its matrices receive, which hides small faults and forbids a tight
comparison. The copy is the same file with its products replaced, beside the same data.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, helper

from ttt_export.graph_weights import GraphTensors
from ttt_export.weights import Float32Array
from ttt_quant.scheme import BlockQuantized

UNROUNDED = 1  # MatMulNBits' accuracy level


def make_unrounded(path: Path) -> None:
    """Rewrite the products of a decoder or head, in its file, so that they round no inputs."""
    model = onnx.load(str(path), load_external_data=False)
    rounded = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            for attribute in node.attribute:
                if attribute.name == "accuracy_level":
                    attribute.i = UNROUNDED
        if node.op_type == "MatMulIntegerToFloat":
            codes, scales = node.input[1], node.input[3]
            weight = f"{codes}.float"
            nodes += [
                helper.make_node("DequantizeLinear", [codes, scales], [weight], axis=1),
                helper.make_node("MatMul", [rounded[node.input[0]], weight], [node.output[0]]),
            ]
        elif node.op_type == "Mul" and node.input[0].endswith(".units"):
            nodes.append(helper.make_node("Identity", [node.input[0]], [node.output[0]]))
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    path.write_bytes(model.SerializeToString())


class RowTensors(GraphTensors):
    """The tensors of a block decoder under the names, and with the scale, of a standard one.

    Args:
        path: the block decoder.
        factors: what the columns of q|k|v were multiplied by, float32 [N].
    """

    def __init__(self, path: Path, factors: Float32Array) -> None:
        super().__init__(path)
        self._factors = factors

    def matrix(self, name: str) -> BlockQuantized | Float32Array:
        """Return W [K, N] as the graph computes with it."""
        scales = self.values(f"{name}.scales")
        if name.endswith(".attn.qkv"):
            scales = scales / self._factors
        weight: Float32Array = self.values(f"{name}.codes").astype("float32")
        weight *= scales
        return weight

    def values(self, name: str) -> Float32Array:
        """Return an initializer."""
        if not name.endswith(".attn.bias"):
            return super().values(name)
        bias: Float32Array = super().values(name.replace(".bias", ".qkv.bias"))
        return np.divide(bias, self._factors, dtype=np.float32)
