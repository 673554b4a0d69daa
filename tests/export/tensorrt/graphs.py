"""Small graphs from random weights, emitted by the exporter's own emitters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.runtime.toy import toy_layout
from ttt_export.calibrate import PlainQuantizer
from ttt_export.decoder_graph import DecoderEmitter
from ttt_export.head_graphs import emit_head
from ttt_export.writer import GraphWriter
from ttt_quant.scheme import Scheme
from ttt_ref.config import ModelConfig
from ttt_runtime.bundle.basic_spec import BASIC, OPERATORS
from ttt_runtime.bundle.folder import BundleWriter
from ttt_runtime.bundle.graph_spec import DECODER, decoder_spec, speech_head_spec, text_head_spec
from ttt_runtime.bundle.manifest import BundleConfig, EmbeddingsEntry, GraphEntry

LAYOUT = toy_layout()
CACHE_ROWS = 128
# Two layers: several faults of engine builders show only when layers share a mask.
MODEL = ModelConfig(
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=LAYOUT.vocab_size,
    max_position_embeddings=CACHE_ROWS,
)


class RandomWeights:
    """A weight source under the checkpoint's tensor names."""

    def __init__(self, model: ModelConfig, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        hidden, inner = model.hidden_size, model.intermediate_size
        query, kv = (
            heads * model.head_dim
            for heads in (model.num_attention_heads, model.num_key_value_heads)
        )
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (model.vocab_size, hidden),
            "lm_head.weight": (model.vocab_size, hidden),
            "model.norm.weight": (hidden,),
        }
        for index in range(model.num_hidden_layers):
            layer = f"model.layers.{index}"
            for norm in ("input_layernorm", "post_attention_layernorm"):
                shapes[f"{layer}.{norm}.weight"] = (hidden,)
            for part, rows in (("q", query), ("k", kv), ("v", kv)):
                shapes[f"{layer}.self_attn.{part}_proj.weight"] = (rows, hidden)
                shapes[f"{layer}.self_attn.{part}_proj.bias"] = (rows,)
            shapes[f"{layer}.self_attn.o_proj.weight"] = (hidden, query)
            for part in ("gate", "up"):
                shapes[f"{layer}.mlp.{part}_proj.weight"] = (inner, hidden)
            shapes[f"{layer}.mlp.down_proj.weight"] = (hidden, inner)
        self._tensors = {
            name: rng.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes.items()
        }

    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        return self._tensors[name][start:stop]


def write_graphs(
    folder: Path,
    scheme: Scheme,
    *,
    model: ModelConfig = MODEL,
    dtype: str = "float16",
    cache_rows: int = CACHE_ROWS,
    heads: bool = True,
    basic: bool = False,
    seed: int = 0,
) -> dict[str, GraphEntry]:
    """Write decoder (and heads) and return their entries."""
    folder.mkdir(parents=True, exist_ok=True)
    source = RandomWeights(model, seed)
    quantizer = PlainQuantizer()
    chosen = {OPERATORS: BASIC} if basic else {}
    spec = decoder_spec(model, cache_rows, dtype, "heads")
    spec = replace(spec, attributes={**spec.attributes, **chosen})
    with GraphWriter(folder / "decoder.onnx") as writer:
        choose = lambda name, width: scheme.fitted(width)  # noqa: E731
        emitter = DecoderEmitter(writer, model, spec, choose, quantizer)
        emitter.emit(source, progress=lambda line: None)
    entries = {DECODER: GraphEntry(spec, "decoder.onnx")}
    if heads:
        for make in (text_head_spec, speech_head_spec):
            head = replace(make(model, LAYOUT.audio_start, dtype), attributes=chosen)
            with GraphWriter(folder / f"{head.name}.onnx") as writer:
                fitted = scheme.fitted(model.hidden_size)
                emit_head(writer, head, source, model, LAYOUT, fitted, quantizer)
            entries[head.name] = GraphEntry(head, f"{head.name}.onnx")
    return entries


def write_bundle(
    out: Path, scheme: Scheme, engine: str, made_with: Mapping[str, Any] | None = None
) -> Path:
    """Publish a bundle of these graphs."""
    with BundleWriter(out) as writer:
        graphs = write_graphs(writer.folder, scheme)
        table = EmbeddingsEntry("table.bin", "float16", MODEL.vocab_size, MODEL.hidden_size)
        writer.add_bytes("table.bin", bytes(2 * MODEL.vocab_size * MODEL.hidden_size))
        writer.publish(
            BundleConfig(
                name=out.name,
                model=MODEL,
                layout=LAYOUT,
                precision="fp16",
                graphs=graphs,
                embeddings=table,
                engine=engine,
                made_with=made_with or {},
            )
        )
    return out
