"""Cut one layer out of a written decoder graph, so that a large one can be run in little memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx import helper

from ttt_export.writer import value_info
from ttt_ref.config import ModelConfig
from ttt_runtime.bundle.graph_spec import GraphSpec, TensorSpec


def layer_spec(decoder: GraphSpec, config: ModelConfig, index: int) -> GraphSpec:
    """Return inputs and outputs of layer `index` as they are named in the decoder graph."""
    last = index == config.num_hidden_layers - 1
    x = "embeds" if index == 0 else f"layers.{index - 1}.mlp.residual"
    result = "hidden" if last else f"layers.{index}.mlp.residual"
    embeds = decoder.input("embeds")
    cache = [decoder.input(f"past_{kv}.{index}") for kv in "kv"]
    return GraphSpec(
        f"decoder layer {index}",
        (
            TensorSpec(x, embeds.dtype, embeds.shape),
            *(t for t in decoder.inputs[1:] if not t.name.startswith("past_")),
            *cache,
        ),
        (
            TensorSpec(result, embeds.dtype, embeds.shape),
            *(decoder.output(f"present_{kv}.{index}") for kv in "kv"),
        ),
        decoder.attributes,
    )


@contextmanager
def sliced(model: onnx.ModelProto, folder: Path, spec: GraphSpec) -> Iterator[Path]:
    """Write the part of a graph between the inputs and outputs of `spec`; remove it afterwards.

    Args:
        model: the whole graph, loaded without its external data.
        folder: where the external data lies; the slice is written beside it.
        spec: names the tensors to cut at.
    """
    given = {t.name for t in spec.inputs}
    makers = {name: node for node in model.graph.node for name in node.output}
    wanted = [t.name for t in spec.outputs]
    needed: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name in needed or name in given:
            continue
        needed.add(name)
        if name in makers:
            wanted += [i for i in makers[name].input if i]
    graph = helper.make_graph(
        [node for node in model.graph.node if needed & set(node.output)],
        spec.name,
        [value_info(t) for t in spec.inputs],
        [value_info(t) for t in spec.outputs],
        initializer=[proto for proto in model.graph.initializer if proto.name in needed],
    )
    part = helper.make_model(
        graph, opset_imports=list(model.opset_import), ir_version=model.ir_version
    )
    path = folder / ".slice.onnx"
    path.write_bytes(part.SerializeToString())
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
