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
from typing import Any, Literal

from ttt_ref.config import ModelConfig
from ttt_ref.errors import ConfigError

CacheLayout = Literal["rows", "heads"]
Dim = int | str

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

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    def __post_init__(self) -> None:
        """Refuse element types and dimensions that no graph of ours can have."""
        if not self.name:
            raise ConfigError("a tensor without a name; give every graph input and output one")
        if self.dtype not in DTYPE_BYTES:
            raise ConfigError(
                f"tensor {self.name!r} has dtype {self.dtype!r}; expected one of "
                f"{', '.join(DTYPE_BYTES)}"
            )
        for dim in self.shape:
            bad_number = isinstance(dim, bool) or (isinstance(dim, int) and dim < 1)
            if bad_number or not isinstance(dim, int | str) or dim == "":
                raise ConfigError(
                    f"tensor {self.name!r} has dimension {dim!r}; "
                    "expected a positive number or a name"
                )

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
        _check_keys("tensor", data, {"name", "dtype", "shape"})
        if not isinstance(data["name"], str) or not isinstance(data["shape"], list):
            raise ConfigError(f"tensor {data['name']!r}: name must be text and shape a list")
        return cls(data["name"], data["dtype"], tuple(data["shape"]))


@dataclass(frozen=True)
class GraphSpec:
    """Inputs and outputs of one graph, in the graph's order.

    `attributes` holds what a shape cannot say: for the decoder `cache_layout`; for any graph the
    onnxruntime session options it was made and measured for, under their own names, which begin
    with `session.` (such as the accuracy level of 4/8-bit products).
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    attributes: Mapping[str, str | int | float | bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse two inputs, or two outputs, of one name."""
        for kind, tensors in (("input", self.inputs), ("output", self.outputs)):
            names = [t.name for t in tensors]
            for name in names:
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
        _check_keys("graph", data, {"name", "inputs", "outputs", "attributes"})
        if not isinstance(data["attributes"], dict):
            raise ConfigError(f"graph {data['name']!r}: attributes must be a table")
        return cls(
            str(data["name"]),
            tuple(TensorSpec.from_dict(t) for t in data["inputs"]),
            tuple(TensorSpec.from_dict(t) for t in data["outputs"]),
            dict(data["attributes"]),
        )


def _find(graph: str, kind: str, tensors: tuple[TensorSpec, ...], name: str) -> TensorSpec:
    for tensor in tensors:
        if tensor.name == name:
            return tensor
    raise ConfigError(
        f"graph {graph!r} has no {kind} {name!r}; it has {', '.join(t.name for t in tensors)}"
    )


def _check_keys(what: str, data: Mapping[str, Any], keys: set[str]) -> None:
    if not isinstance(data, Mapping):
        raise ConfigError(f"a {what} must be a table, not {type(data).__name__}")
    if data.keys() != keys:
        wrong = ", ".join(sorted(data.keys() ^ keys))
        raise ConfigError(f"a {what} needs exactly the keys {', '.join(sorted(keys))}; see {wrong}")


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
