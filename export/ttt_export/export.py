"""From a checkpoint to a published bundle: emit, validate, measure, and only then publish."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from ttt_export.check_values import check_values
from ttt_export.checks import Check
from ttt_export.codec_export import codec_report, copy_codec, export_codec
from ttt_export.evaluation import evaluate
from ttt_export.executors import Written
from ttt_export.gqa.rewrite import install, install_block, rewrite_as_gqa
from ttt_export.graphs import (
    Progress,
    graph_specs,
    open_table,
    silent,
    write_graphs,
)
from ttt_export.memory_plan import check_memory, plan_export
from ttt_export.options import ExportOptions, extra_config, made_from, made_with
from ttt_export.quality import measure_quality
from ttt_export.reference_stream import StreamedReference
from ttt_export.sequences import Sequences, assistant_opening, load_sequences
from ttt_export.source import Checkpoint, expected_shapes, open_checkpoint
from ttt_export.table import write_table
from ttt_export.tensorrt.engines import RECORD, build_graph_engines, check_builder, engine_records
from ttt_export.tensorrt.profiles import SpanShape, graph_profiles
from ttt_export.unrounded_check import check_written, remove_unrounded
from ttt_quant.recipe import Recipe
from ttt_quant.report import GateError, QualityReport
from ttt_runtime.bundle.folder import BundleWriter
from ttt_runtime.bundle.manifest import BundleConfig, CodecEntry, GraphEntry

TABLE_FILE: Final = "embeddings.bin"
SCALES_FILE: Final = "embeddings.scales.bin"
REPORT_FILE: Final = "export_report.json"


@dataclass(frozen=True)
class ExportResult:
    """A published bundle and what is known of its quality."""

    path: Path
    report: QualityReport
    checks: tuple[Check, ...]


def export_checkpoint(
    checkpoint_path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    precision: str = "fp32",
    engine: str = "cpu",
    *,
    options: ExportOptions | None = None,
    progress: Progress = silent,
) -> ExportResult:
    """Export a checkpoint folder to a bundle.

    Nothing appears at `out` unless validation passes and the gates are reached.

    Args:
        checkpoint_path: folder in the released format.
        out: folder to create.
        precision: see `ExportOptions`; ignored when `options` are given.
        engine: see `ExportOptions`; ignored when `options` are given.
        options: everything else.
        progress: called with one line before each stage.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        ConfigError: options that do not go together.
        ExportError: validation or gates failed, or there is too little memory.
        BundleError: `out` exists.
    """
    options = options or ExportOptions(precision=precision, engine=engine)
    recipe = options.resolve_recipe()
    options.check_evaluation()
    if options.builds_engines:
        check_builder(options.engine)
    progress(f"reading {checkpoint_path}")
    checkpoint = open_checkpoint(checkpoint_path, options.adapter)
    for note in checkpoint.notes:
        progress(f"note: {note}")
    cache_rows = options.cache_dim(checkpoint)
    is_gqa = options.uses_gqa(recipe)
    presets, prompts = extra_config(checkpoint, options.prompts)
    check_memory(plan_export(checkpoint, recipe))
    progress("checking the weights' values")
    check_values(checkpoint.weights, expected_shapes(checkpoint.model), recipe.compute)
    sequences = load_sequences(checkpoint, options.sequences, options.seed)
    with BundleWriter(out, overwrite=options.force) as bundle:
        folder = bundle.folder
        # First the codec: a missing part is an error before the long work.
        progress("codec")
        codec = make_codec(checkpoint, recipe, options, bundle)
        specs = graph_specs(
            checkpoint,
            recipe,
            cache_rows,
            options.cache_layout,
            options.cache_dtype(recipe),
            options.operators,
        )
        spans = SpanShape.of_presets(presets.values())
        if options.builds_engines:
            for spec in specs.values():
                graph_profiles(spec, spans)  # a cache too short is refused before the long work
        schemes = write_graphs(checkpoint, recipe, specs, folder, sequences, progress)
        progress("embedding table")
        embeddings = write_table(checkpoint, recipe.embeddings, folder, TABLE_FILE, SCALES_FILE)
        written = Written(
            folder, checkpoint.model, checkpoint.layout, specs, open_table(folder, embeddings)
        )
        progress("validating")
        checks, judged = check_written(checkpoint, recipe, written, sequences, options.seed)
        block: Written | None = None
        if is_gqa:
            gqa = rewrite_as_gqa(checkpoint, written, options.block_body, progress, options.seed)
            checks = [*checks, *gqa.checks]
            written = judged = install(gqa, folder)
            block = gqa.block
        progress("measuring quality")
        report = measure_report(checkpoint, recipe, judged, sequences, schemes, checks, folder)
        report = replace(report, codec=codec_report(bundle))
        _hold_gates(report, checkpoint, progress)
        if block is not None:
            progress("measuring quality of the decoder for blocks")
            beside = measure_report(checkpoint, recipe, block, sequences, Counter(), [], folder)
            report = replace(report, block_body=replace(beside, recipe=f"{recipe.name}, blocks"))
            _hold_gates(beside, checkpoint, progress)
            written = install_block(written, block)
        specs = written.specs
        checkpoint.tokenizer.save(str(bundle.path("tokenizer.json")), pretty=False)
        bundle.add_bytes(REPORT_FILE, report_json(report))
        remove_unrounded(written)
        graphs = {name: GraphEntry(spec, f"{name}.onnx") for name, spec in specs.items()}
        engines: dict[str, Any] = {}
        if options.builds_engines:
            built = build_graph_engines(
                folder,
                graphs,
                options.engine,
                spans=spans,
                say=progress,
                show_progress=progress is not silent and sys.stderr.isatty(),
                shown_folder=bundle.out,
            )
            engines = {RECORD: engine_records(built)}
        config = BundleConfig(
            name=Path(out).name,
            model=checkpoint.model,
            layout=checkpoint.layout,
            precision=options.precision,
            engine=options.engine,
            graphs=graphs,
            embeddings=embeddings,
            presets=presets,
            prompts=prompts,
            tokenizer="tokenizer.json",
            codec=codec,
            made_from=made_from(checkpoint, options, recipe),
            made_with={**made_with(), **engines},
        )
        if options.evaluation is not None:
            progress("evaluating it on recordings")
            evaluation = evaluate(bundle.seal(config), options.evaluation)
            report = replace(report, evaluation=evaluation)
            bundle.add_bytes(REPORT_FILE, report_json(report))
        path = bundle.publish(config)
    return ExportResult(path, report, tuple(checks))


def _hold_gates(report: QualityReport, checkpoint: Checkpoint, progress: Progress) -> None:
    """Raise GateError for an export below its gates; random weights only give a note.

    Their logits lie so close together that any rounding changes choices.
    """
    if not report.failures():
        return
    if not checkpoint.is_random:
        raise GateError(report)
    progress(f"random weights, so the gates only report: {'; '.join(report.failures())}")


def make_codec(
    checkpoint: Checkpoint, recipe: Recipe, options: ExportOptions, bundle: BundleWriter
) -> CodecEntry | None:
    """Export the codec that belongs to the checkpoint, or take that of another bundle."""
    if options.codec_from is not None:
        return copy_codec(options.codec_from, bundle)
    return export_codec(
        checkpoint,
        bundle,
        options.engine,
        options.speech_tokenizer,
        options.speech_decoder,
        precision=recipe.codec or options.precision,
    )


def measure_report(
    checkpoint: Checkpoint,
    recipe: Recipe,
    written: Written,
    sequences: Sequences,
    schemes: Counter[str],
    checks: list[Check],
    folder: Path,
) -> QualityReport:
    """Hold the written graphs against the checkpoint on sequences kept from calibration."""
    reference = StreamedReference(checkpoint.model, checkpoint.layout, checkpoint.weights)
    presets, _ = extra_config(checkpoint)
    text, speech, tags, count = measure_quality(
        reference,
        written,
        sequences.judged,
        opening=assistant_opening(checkpoint),
        block=next(iter(presets.values())).block_length,
    )
    files = {p.name: p.stat().st_size for p in folder.iterdir() if p.is_file()}
    return QualityReport(
        recipe=recipe.name,
        sequences=f"{count} {sequences.described}",
        text=text,
        speech=speech,
        end_tags=tags,
        gates=recipe.gates,
        schemes=dict(schemes),
        file_bytes=files,
        checks=[asdict(check) for check in checks],
    )


def report_json(report: QualityReport) -> bytes:
    """Return the report as a JSON file's contents."""
    return (json.dumps(report.to_dict(), indent=1) + "\n").encode()
