"""Write all graphs of a bundle by a recipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from ttt_export.cache_types import measure_peaks
from ttt_export.calibrate import CalibratedQuantizer, PlainQuantizer
from ttt_export.decoder_graph import DecoderEmitter
from ttt_export.head_graphs import emit_head
from ttt_export.linear import LayerQuantizer
from ttt_export.reference_stream import StreamedReference
from ttt_export.sequences import Sequences
from ttt_export.source import Checkpoint
from ttt_export.writer import GraphWriter
from ttt_quant.algorithms import CALIBRATED
from ttt_quant.recipe import Recipe
from ttt_quant.scheme import Scheme
from ttt_runtime.bundle.basic_spec import OPERATORS, is_basic
from ttt_runtime.bundle.embeddings import EmbeddingTable
from ttt_runtime.bundle.graph_spec import (
    DECODER,
    SPEECH_HEAD,
    TEXT_HEAD,
    CacheLayout,
    Dim,
    GraphSpec,
    decoder_spec,
    speech_head_spec,
    text_head_spec,
)
from ttt_runtime.bundle.manifest import EmbeddingsEntry

Progress = Callable[[str], None]


def silent(_: str) -> None:
    """Say nothing."""


def graph_specs(
    checkpoint: Checkpoint,
    recipe: Recipe,
    cache_rows: Dim,
    layout: CacheLayout,
    cache_dtype: str | None = None,
    operators: str | None = None,
) -> dict[str, GraphSpec]:
    """Return the specs of the three model graphs.

    Args:
        checkpoint: gives shapes and ids.
        recipe: gives the compute type and session options.
        cache_rows, layout: of the cache.
        cache_dtype: None stands for the compute type.
        operators: None stands for the standard ones, see `basic_spec`.
    """
    start = checkpoint.layout.audio_start
    specs = (
        decoder_spec(checkpoint.model, cache_rows, recipe.compute, layout, cache_dtype),
        text_head_spec(checkpoint.model, start, recipe.compute),
        speech_head_spec(checkpoint.model, start, recipe.compute),
    )
    chosen = {} if operators is None else {OPERATORS: operators}
    return {
        spec.name: replace(spec, attributes={**spec.attributes, **chosen, **recipe.session})
        for spec in specs
    }


def write_graphs(
    checkpoint: Checkpoint,
    recipe: Recipe,
    specs: Mapping[str, GraphSpec],
    folder: Path,
    sequences: Sequences,
    progress: Progress = silent,
    *,
    round_inputs: bool = True,
) -> Counter[str]:
    """Emit decoder and heads; return how many matrices got which scheme.

    Without `round_inputs` the same weights are written and nothing else is rounded.
    """
    config, source = checkpoint.model, checkpoint.weights
    counted: Counter[str] = Counter()
    chosen: dict[str, Scheme] = {}
    # Before 10.15 TensorRT is documented to take blocks for 4-bit weights only.
    by_columns = is_basic(specs[DECODER]) and isinstance(specs[DECODER].input("mask").shape[1], int)

    def choose(name: str, width: int) -> Scheme:
        if name not in chosen:
            scheme = recipe.scheme(name, config.num_hidden_layers)
            if by_columns and scheme.kind == "int8":
                scheme = replace(scheme, whole_columns=True)
            chosen[name] = scheme.fitted(width)
            counted[chosen[name].describe()] += 1
        return chosen[name]

    quantizer: LayerQuantizer = PlainQuantizer()
    if recipe.algorithms() & CALIBRATED or (round_inputs and recipe.rounds_inputs):
        progress(f"calibrating on {len(sequences.calibration)} sequences")
        reference = StreamedReference(config, checkpoint.layout, source)
        quantizer = CalibratedQuantizer(
            reference, config, choose, sequences.calibration, round_inputs=round_inputs
        )
    peaks = None
    if specs[DECODER].input("past_k.0").dtype == "int8":
        progress("measuring keys and values for the int8 cache")
        reference = StreamedReference(config, checkpoint.layout, source)
        peaks = measure_peaks(reference, config, source, sequences.calibration)
    with GraphWriter(folder / f"{DECODER}.onnx") as writer:
        emitter = DecoderEmitter(writer, config, specs[DECODER], choose, quantizer, peaks)
        emitter.emit(source, progress)
    quantizer.prepare_heads(source)
    for name in (TEXT_HEAD, SPEECH_HEAD):
        progress(f"writing {name}")
        scheme = choose(name, config.hidden_size)
        with GraphWriter(folder / f"{name}.onnx") as writer:
            emit_head(writer, specs[name], source, config, checkpoint.layout, scheme, quantizer)
    return counted


def open_table(folder: Path, entry: EmbeddingsEntry) -> EmbeddingTable:
    """Map a written embedding table."""
    scales = None if entry.scales_file is None else folder / entry.scales_file
    return EmbeddingTable(folder / entry.file, entry.dtype, entry.rows, entry.columns, scales)
