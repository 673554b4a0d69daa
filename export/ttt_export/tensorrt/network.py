"""Read a graph into a strongly typed network and hold it against its spec."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ttt_ref.errors import ExportError
from ttt_runtime.backends.tensorrt.api import Backend
from ttt_runtime.backends.tensorrt.dtypes import DTYPES
from ttt_runtime.bundle.graph_spec import GraphSpec, TensorSpec


def parse_network(backend: Backend, builder: Any, logger: Any, graph: Path) -> tuple[Any, Any]:
    """Parse an ONNX file; returns (network, parser), of which the parser must outlive the network.

    The path goes to the parser rather than the bytes: external weights lie beside the file.

    Raises:
        ExportError: the parser does not take the graph; the line names the node.
    """
    trt = backend.trt
    # TensorRT 11 knows no other networks, and may drop the flag one day.
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        raise ExportError(f"graph {graph.name}: {_parser_error(backend, parser)}")
    allow_plain_attention(trt, network)
    return network, parser


def _parser_error(backend: Backend, parser: Any) -> str:
    title = backend.flavour.title
    if parser.num_errors == 0:
        return f"{title} cannot parse it: {backend.first_error()}"
    error = parser.get_error(0)
    where = f"node {error.node_name()!r} ({error.node_operator()})" if error.node_name() else "it"
    reason = " ".join(error.desc().split())
    return f"{title} {backend.version} cannot parse {where}: {reason:.300}"


def allow_plain_attention(trt: Any, network: Any) -> int:
    """Let attention be built of plain operations where no fused kernel exists; returns how many.

    float32 has no fused kernel: without this the build fails. Where one exists it is still taken.
    """
    kind = getattr(trt.LayerType, "ATTENTION_INPUT", None)
    if kind is None or not hasattr(trt, "IAttentionInputLayer"):
        return 0
    changed = 0
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type != kind:
            continue
        layer.__class__ = trt.IAttentionInputLayer
        attention = layer.attention
        if attention is not None:
            attention.decomposable = True
            changed += 1
    return changed


def check_network(network: Any, spec: GraphSpec) -> None:
    """Compare names, element types and shapes of a parsed network with the spec.

    Raises:
        ExportError: the first difference, with what was seen and what was expected.
    """
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    for kind, seen, wanted in (("input", inputs, spec.inputs), ("output", outputs, spec.outputs)):
        _check_tensors(spec.name, kind, seen, wanted)


def _check_tensors(
    graph: str, kind: str, seen: Sequence[Any], wanted: Sequence[TensorSpec]
) -> None:
    names = [tensor.name for tensor in seen]
    expected = [tensor.name for tensor in wanted]
    if sorted(names) != sorted(expected):
        wrong = ", ".join(sorted(set(names) ^ set(expected)))
        raise ExportError(
            f"graph {graph}: the parsed network's {kind}s differ from the spec in {wrong}"
        )
    by_name = {tensor.name: tensor for tensor in seen}
    for tensor in wanted:
        native = by_name[tensor.name]
        dtype = DTYPES.get(native.dtype.name, native.dtype.name)
        shape = tuple(native.shape)
        # The parser writes -1 for a dimension that is known only when the graph runs.
        fixed = tuple(-1 if isinstance(dim, str) else dim for dim in tensor.shape)
        if dtype != tensor.dtype or not _fits(shape, fixed):
            raise ExportError(
                f"graph {graph}: {kind} {tensor.name} was parsed as {dtype} {list(shape)}, "
                f"the spec says {tensor.dtype} {list(tensor.shape)}"
            )


def _fits(shape: tuple[int, ...], fixed: tuple[int, ...]) -> bool:
    return len(shape) == len(fixed) and all(
        seen == wanted for seen, wanted in zip(shape, fixed, strict=True)
    )
