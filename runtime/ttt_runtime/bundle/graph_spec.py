"""What every exported graph takes and gives: one description for all who touch a graph.

The exporter names its inputs and outputs from here, the validator and the TensorRT profiles read
the shapes, and the runner binds its buffers by it. A dimension is a number, or the name of a
dimension that is known only when the graph runs:

    Q  query rows of one forward        C  cache rows bound to one forward
    N  hidden rows given to a head

Two cache layouts exist. `rows` is [1, C, kv_heads * head_dim]: a prefix of the preallocated
buffer is contiguous memory, so a short context is bound as a short C. `heads` is
[1, kv_heads, C, head_dim], for engines that want a fixed C.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from ttt_ref.bounded import shown
from ttt_ref.config import ModelConfig
from ttt_ref.errors import ConfigError
from ttt_ref.ranges import Dimension, Name, Word
from ttt_ref.schema import Length, OneOf, build, check

CacheLayout = Literal["rows", "heads"]
Dim = int | str
DimName = Annotated[str, Length(1, 64)]
MostTensors = Length(0, 4096)  # two for each of up to 1,024 layers, and a few more

DECODER = "decoder"
TEXT_HEAD = "text_head"
SPEECH_HEAD = "speech_head"

DTYPE_BYTES: Mapping[str, int] = {
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}


@dataclass(frozen=True)
class TensorSpec:
    """Name, element type and shape of one graph input or output."""

    name: Name
    dtype: Annotated[str, OneOf(*DTYPE_BYTES)]
    shape: Annotated[tuple[Dimension | DimName, ...], Length(0, 8)]

    def __post_init__(self) -> None:
        """Refuse element types and dimensions that no graph of ours can have."""
        check(self, f"tensor {shown(self.name)}")

    def resolve(self, dims: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape with every named dimension replaced by its number."""
        missing = [d for d in self.shape if isinstance(d, str) and d not in dims]
        if missing:
            raise ConfigError(f"tensor {self.name!r} needs a number for dimension {missing[0]!r}")
        return tuple(dims[d] if isinstance(d, str) else d for d in self.shape)

    def bytes(self, dims: Mapping[str, int]) -> int:
        """Return the size of the tensor in bytes for these dimensions."""
        size = DTYPE_BYTES[self.dtype]
        for dim in self.resolve(dims):
            size *= dim
        return size

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TensorSpec:
        """Read the JSON form; unknown or missing keys raise ConfigError."""
        return build(cls, data, "tensor")


@dataclass(frozen=True)
class GraphSpec:
    """Inputs and outputs of one graph, in the graph's order.

    `attributes` holds what a shape cannot say: for the decoder `cache_layout`; for any graph the
    onnxruntime session options it was made and measured for, under their own names, which begin
    with `session.` (such as the accuracy level of 4/8-bit products).
    """

    name: Name
    inputs: Annotated[tuple[TensorSpec, ...], MostTensors]
    outputs: Annotated[tuple[TensorSpec, ...], MostTensors]
    attributes: Annotated[Mapping[str, bool | int | float | Word], Length(0, 64)] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        """Refuse what the ranges do not allow, and two inputs, or two outputs, of one name."""
        check(self, f"graph {shown(self.name)}")
        for kind, tensors in (("input", self.inputs), ("output", self.outputs)):
            names = [t.name for t in tensors]
            for name in sorted(set(names)):
                if names.count(name) > 1:
                    raise ConfigError(f"graph {self.name!r} has {kind} {name!r} twice")

    def input(self, name: str) -> TensorSpec:
        """Return the input of this name; ConfigError if there is none."""
        return _find(self.name, "input", self.inputs, name)

    def output(self, name: str) -> TensorSpec:
        """Return the output of this name; ConfigError if there is none."""
        return _find(self.name, "output", self.outputs, name)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "name": self.name,
            "inputs": [t.to_dict() for t in self.inputs],
            "outputs": [t.to_dict() for t in self.outputs],
            "attributes": dict(self.attributes),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> GraphSpec:
        """Read the JSON form; unknown or missing keys raise ConfigError."""
        return build(cls, data, "graph", complete=True)


def _find(graph: str, kind: str, tensors: tuple[TensorSpec, ...], name: str) -> TensorSpec:
    for tensor in tensors:
        if tensor.name == name:
            return tensor
    raise ConfigError(
        f"graph {graph!r} has no {kind} {name!r}; it has {', '.join(t.name for t in tensors)}"
    )


def past_names(num_layers: int) -> list[str]:
    """Return the cache input names in graph order: past_k.0, past_v.0, past_k.1, ..."""
    return [f"past_{kv}.{i}" for i in range(num_layers) for kv in ("k", "v")]


def present_names(num_layers: int) -> list[str]:
    """Return the cache output names, each bound to the buffer of the same past name."""
    return [f"present_{kv}.{i}" for i in range(num_layers) for kv in ("k", "v")]


def cache_shape(
    model: ModelConfig, cache_rows: Dim, layout: CacheLayout = "rows"
) -> tuple[Dim, ...]:
    """Return the shape of one layer's K (or V) cache."""
    if layout == "rows":
        return (1, cache_rows, model.num_key_value_heads * model.head_dim)
    if layout == "heads":
        return (1, model.num_key_value_heads, cache_rows, model.head_dim)
    raise ConfigError(f"cache layout {layout!r}; expected 'rows' or 'heads'")


def decoder_spec(
    model: ModelConfig,
    cache_rows: Dim = "C",
    dtype: str = "float32",
    layout: CacheLayout = "rows",
    cache_dtype: str | None = None,
) -> GraphSpec:
    """Describe the decoder: embedding rows in, hidden rows (after the last norm) out.

    Q rows are written to cache rows write_index .. write_index + Q - 1 and attend to the cache
    rows that `mask` [Q, C] allows (True = may attend). Rows of the cache that no mask row allows
    have no weight, but must hold finite numbers: 0 * NaN is NaN. `cache_dtype` is the cache's
    element type where it is not the type that the graph computes with.
    """
    shape = cache_shape(model, cache_rows, layout)
    hidden = (1, "Q", model.hidden_size)
    layers = model.num_hidden_layers
    return GraphSpec(
        DECODER,
        (
            TensorSpec("embeds", dtype, hidden),
            TensorSpec("positions", "int64", (1, "Q")),
            TensorSpec("write_index", "int64", (1,)),
            TensorSpec("mask", "bool", ("Q", cache_rows)),
            *(TensorSpec(name, cache_dtype or dtype, shape) for name in past_names(layers)),
        ),
        (
            TensorSpec("hidden", dtype, hidden),
            *(TensorSpec(name, cache_dtype or dtype, shape) for name in present_names(layers)),
        ),
        {"cache_layout": layout},
    )


def _head_spec(
    name: str, model: ModelConfig, rows: int, dtype: str, extra: tuple[TensorSpec, ...]
) -> GraphSpec:
    if not 0 < rows < model.vocab_size:
        raise ConfigError(
            f"{name} would have {rows} rows of a vocabulary of {model.vocab_size}; "
            "audio_start must lie inside the vocabulary"
        )
    return GraphSpec(
        name,
        (TensorSpec("hidden", dtype, ("N", model.hidden_size)), *extra),
        (
            TensorSpec("logits", "float32", ("N", rows)),
            TensorSpec("best_id", "int64", ("N",)),
            TensorSpec("best_logit", "float32", ("N",)),
            TensorSpec("sum_exp", "float32", ("N",)),
        ),
    )


def text_head_spec(model: ModelConfig, audio_start: int, dtype: str = "float32") -> GraphSpec:
    """Describe the head of the text rows 0 .. audio_start-1; best_id is a token id.

    `sum_exp` is the sum over the head's rows of exp(logit - best_logit), at least 1: the softmax
    probability of the best id is its inverse. `end_bias` is added to the logit of <|im_end|>: 0,
    or -1e30 where it is forbidden.
    """
    end_bias = (TensorSpec("end_bias", "float32", (1,)),)
    return _head_spec(TEXT_HEAD, model, audio_start, dtype, end_bias)


def speech_head_spec(model: ModelConfig, audio_start: int, dtype: str = "float32") -> GraphSpec:
    """Describe the head of rows audio_start .. vocab-1.

    best_id is a token id of the whole vocabulary (audio_start already added).
    """
    return _head_spec(SPEECH_HEAD, model, model.vocab_size - audio_start, dtype, ())
