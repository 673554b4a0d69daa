"""From a checkpoint to a published bundle: emit, validate, measure, and only then publish."""

from __future__ import annotations

import os
import platform
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from ttt_export.calibrate import CalibratedQuantizer, PlainQuantizer
from ttt_export.checks import Check
from ttt_export.codec_export import export_codec
from ttt_export.decoder_graph import DecoderEmitter
from ttt_export.executors import Written
from ttt_export.head_graphs import emit_head
from ttt_export.linear import LayerQuantizer
from ttt_export.memory_plan import check_memory, plan_export
from ttt_export.quality import measure_quality
from ttt_export.reference_stream import StreamedReference
from ttt_export.sequences import Sequences, load_sequences
from ttt_export.source import Checkpoint, open_checkpoint
from ttt_export.table import write_table
from ttt_export.tensorrt.engines import RECORD, build_graph_engines, check_builder, engine_records
from ttt_export.tensorrt.profiles import SpanShape
from ttt_export.validate import check_structure, validate
from ttt_export.writer import GraphWriter
from ttt_quant.algorithms import CALIBRATED
from ttt_quant.recipe import Gates, Recipe, default_recipe, read_recipe
from ttt_quant.report import GateError, QualityReport
from ttt_quant.scheme import Scheme
from ttt_ref.config import GenerationConfig
from ttt_ref.errors import CheckpointError, ConfigError
from ttt_runtime.bundle import BundleWriter
from ttt_runtime.bundle_config import BundleConfig, EmbeddingsEntry, GraphEntry
from ttt_runtime.embeddings import EmbeddingTable
from ttt_runtime.graph_spec import (
    DECODER,
    Dim,
    GraphSpec,
    decoder_spec,
    speech_head_spec,
    text_head_spec,
)

TABLE_FILE: Final = "embeddings.bin"
SCALES_FILE: Final = "embeddings.scales.bin"
TWIN_FOLDER: Final = ".twin"
REPORT_FILE: Final = "export_report.json"
# Engines that are built for one cache length; the others bind as much as the context needs.
FIXED_CACHE_ENGINES: Final = ("tensorrt", "rtx")
DEFAULT_CACHE_ROWS: Final = 4096
MIN_CACHE_ROWS: Final = 128  # the validation's longest case must fit

Progress = Callable[[str], None]


def _silent(_: str) -> None:
    pass


@dataclass(frozen=True)
class ExportOptions:
    """What `ttt-export` can be told; the defaults are a plain fp32 bundle for the CPU.

    Attributes:
        precision: fp32, fp16, bf16, int8 or int4; picks the recipe.
        engine: cpu, cuda, tensorrt or rtx.
        recipe: a recipe file instead of the default one.
        adapter: folder of a LoRA adapter to merge in.
        max_kl, min_agreement: gates instead of the recipe's.
        cache_rows: cache length of engines that need a fixed one.
        sequences: file of token sequences for calibration and the report.
        speech_tokenizer, speech_decoder: folders of the GLM-4-Voice codec.
        seed: draws synthetic sequences and the validation's inputs.
        force: replace an existing bundle.
        engines: build the engines of tensorrt and rtx too; without them `ttt-engines` builds them
            on the device.
    """

    precision: str = "fp32"
    engine: str = "cpu"
    recipe: Path | None = None
    adapter: Path | None = None
    max_kl: float | None = None
    min_agreement: float | None = None
    cache_rows: int | None = None
    sequences: Path | None = None
    speech_tokenizer: Path | None = None
    speech_decoder: Path | None = None
    seed: int = 0
    force: bool = False
    engines: bool = True

    @property
    def builds_engines(self) -> bool:
        """True if engines belong to this export."""
        return self.engines and self.engine in FIXED_CACHE_ENGINES

    def resolve_recipe(self) -> Recipe:
        """Return the recipe with this export's gates; ConfigError for an unknown combination."""
        recipe = default_recipe(self.precision, self.engine)
        if self.recipe is not None:
            recipe = read_recipe(self.recipe)
        gates = Gates(
            recipe.gates.max_kl if self.max_kl is None else self.max_kl,
            recipe.gates.min_agreement if self.min_agreement is None else self.min_agreement,
        )
        return replace(recipe, gates=gates)

    @property
    def cache_layout(self) -> str:
        """Layout of the cache: TensorRT takes four axes, the others bind prefixes of rows."""
        return "heads" if self.engine in FIXED_CACHE_ENGINES else "rows"

    def cache_dim(self, checkpoint: Checkpoint) -> Dim:
        """Return the cache length of the graphs: a number for engines that need one."""
        limit = checkpoint.model.max_position_embeddings
        if self.engine not in FIXED_CACHE_ENGINES:
            if self.cache_rows is not None:
                raise ConfigError(
                    f"--cache-rows is for {' and '.join(FIXED_CACHE_ENGINES)}; engine "
                    f"{self.engine} follows the context"
                )
            return "C"
        rows = min(DEFAULT_CACHE_ROWS, limit) if self.cache_rows is None else self.cache_rows
        if not MIN_CACHE_ROWS <= rows <= limit:
            raise ConfigError(f"--cache-rows is {rows}; expected {MIN_CACHE_ROWS} .. {limit}")
        return rows


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
    progress: Progress = _silent,
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
    if options.builds_engines:
        check_builder(options.engine)
    progress(f"reading {checkpoint_path}")
    checkpoint = open_checkpoint(checkpoint_path, options.adapter)
    cache_rows = options.cache_dim(checkpoint)
    presets, prompts = extra_config(checkpoint)
    check_memory(plan_export(checkpoint, recipe))
    sequences = load_sequences(checkpoint, options.sequences, options.seed)
    with BundleWriter(out, overwrite=options.force) as bundle:
        folder = bundle.folder
        # First the codec: a part that is missing should be told before the long work.
        progress("codec")
        codec = export_codec(
            checkpoint,
            bundle,
            options.engine,
            options.speech_tokenizer,
            options.speech_decoder,
            precision="fp32" if options.precision == "fp32" else "int8",
        )
        specs = graph_specs(checkpoint, recipe, cache_rows, options.cache_layout)
        schemes = write_graphs(checkpoint, recipe, specs, folder, sequences, progress)
        progress("embedding table")
        embeddings = write_table(checkpoint, recipe.embeddings, folder, TABLE_FILE, SCALES_FILE)
        written = Written(
            folder, checkpoint.model, checkpoint.layout, specs, open_table(folder, embeddings)
        )
        progress("validating")
        written = runnable_here(checkpoint, recipe, written, sequences)
        checks = validate(written, options.seed)
        progress("measuring quality")
        report = measure_report(checkpoint, recipe, written, sequences, schemes, checks, folder)
        if report.failures():
            raise GateError(report)
        checkpoint.tokenizer.save(str(bundle.path("tokenizer.json")), pretty=False)
        bundle.add_bytes(REPORT_FILE, report_json(report))
        shutil.rmtree(folder / TWIN_FOLDER, ignore_errors=True)
        graphs = {name: GraphEntry(spec, f"{name}.onnx") for name, spec in specs.items()}
        engines: dict[str, Any] = {}
        if options.builds_engines:
            spans = SpanShape.of_presets(presets.values())
            built = build_graph_engines(
                folder,
                graphs,
                options.engine,
                spans=spans,
                say=progress,
                shown_folder=bundle.out,
            )
            engines = {RECORD: engine_records(built)}
        path = bundle.publish(
            BundleConfig(
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
        )
    return ExportResult(path, report, tuple(checks))


def extra_config(
    checkpoint: Checkpoint,
) -> tuple[dict[str, GenerationConfig], Mapping[str, Any]]:
    """Return the checkpoint's presets (the released two if it names none) and prompts."""
    presets = checkpoint.raw_config.get("ttt_presets")
    prompts = checkpoint.raw_config.get("ttt_prompts", {})
    if not isinstance(prompts, Mapping):
        raise CheckpointError(f"{checkpoint.path}: config.json: ttt_prompts must be a table")
    if presets is None:
        return {name: GenerationConfig.preset(name) for name in ("script", "paper")}, prompts
    if not isinstance(presets, Mapping):
        raise CheckpointError(f"{checkpoint.path}: config.json: ttt_presets must be a table")
    return {str(k): GenerationConfig.from_dict(v) for k, v in presets.items()}, prompts


def graph_specs(
    checkpoint: Checkpoint, recipe: Recipe, cache_rows: Dim, layout: str
) -> dict[str, GraphSpec]:
    """Return the specs of the three model graphs; the cache layout is `rows` or `heads`."""
    start = checkpoint.layout.audio_start
    specs = (
        decoder_spec(
            checkpoint.model,
            cache_rows,
            recipe.compute,
            "heads" if layout == "heads" else "rows",
        ),
        text_head_spec(checkpoint.model, start, recipe.compute),
        speech_head_spec(checkpoint.model, start, recipe.compute),
    )
    return {
        spec.name: replace(spec, attributes={**spec.attributes, **recipe.session}) for spec in specs
    }


def write_graphs(
    checkpoint: Checkpoint,
    recipe: Recipe,
    specs: Mapping[str, GraphSpec],
    folder: Path,
    sequences: Sequences,
    progress: Progress = _silent,
) -> Counter[str]:
    """Emit decoder and heads; return how many matrices got which scheme."""
    config, source = checkpoint.model, checkpoint.weights
    counted: Counter[str] = Counter()
    chosen: dict[str, Scheme] = {}

    def choose(name: str, width: int) -> Scheme:
        if name not in chosen:
            chosen[name] = recipe.scheme(name, config.num_hidden_layers).fitted(width)
            counted[chosen[name].describe()] += 1
        return chosen[name]

    quantizer: LayerQuantizer = PlainQuantizer()
    if recipe.algorithms() & CALIBRATED:
        progress(f"calibrating on {len(sequences.calibration)} sequences")
        reference = StreamedReference(config, checkpoint.layout, source)
        quantizer = CalibratedQuantizer(reference, config, choose, sequences.calibration)
    for name, spec in specs.items():
        progress(f"writing {name}")
        if name != DECODER:
            continue
        with GraphWriter(folder / f"{name}.onnx") as writer:
            DecoderEmitter(writer, config, spec, choose, quantizer).emit(source)
    quantizer.prepare_heads(source)
    for name, spec in specs.items():
        if name == DECODER:
            continue
        scheme = choose(name, config.hidden_size)
        with GraphWriter(folder / f"{name}.onnx") as writer:
            emit_head(writer, spec, source, config, checkpoint.layout, scheme, quantizer)
    return counted


def runnable_here(
    checkpoint: Checkpoint, recipe: Recipe, written: Written, sequences: Sequences
) -> Written:
    """Return graphs of the same weights that this machine's onnxruntime can run.

    Its CPU kernels know no bfloat16 products. Such graphs are checked by structure here, and by
    numbers through a twin that holds the same bfloat16 weights and computes in float32.
    """
    if recipe.compute != "bfloat16":
        return written
    check_structure(written)
    folder = written.folder / TWIN_FOLDER
    folder.mkdir()
    wide = replace(recipe, compute="float32")
    rows = written.specs[DECODER].input("mask").shape[1]
    layout = str(written.specs[DECODER].attributes["cache_layout"])
    specs = graph_specs(checkpoint, wide, rows, layout)
    write_graphs(checkpoint, wide, specs, folder, sequences)
    return replace(written, folder=folder, specs=specs)


def open_table(folder: Path, entry: EmbeddingsEntry) -> EmbeddingTable:
    """Map a written embedding table."""
    scales = None if entry.scales_file is None else folder / entry.scales_file
    return EmbeddingTable(folder / entry.file, entry.dtype, entry.rows, entry.columns, scales)


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
    text, speech, tags = measure_quality(reference, written, sequences.judged)
    files = {p.name: p.stat().st_size for p in folder.iterdir() if p.is_file()}
    return QualityReport(
        recipe=recipe.name,
        sequences=sequences.described,
        text=text,
        speech=speech,
        end_tags=tags,
        gates=recipe.gates,
        schemes=dict(schemes),
        file_bytes=files,
        checks=[{"name": c.name, "max_diff": c.max_diff, "tolerance": c.tolerance} for c in checks],
    )


def report_json(report: QualityReport) -> bytes:
    """Return the report as a JSON file's contents."""
    import json

    return (json.dumps(report.to_dict(), indent=1) + "\n").encode()


def made_from(checkpoint: Checkpoint, options: ExportOptions, recipe: Recipe) -> dict[str, Any]:
    """Return what the bundle says of its origin (no paths of the machine that made it)."""
    origin: dict[str, Any] = {"checkpoint": checkpoint.path.resolve().name, "recipe": recipe.name}
    if options.adapter is not None:
        origin["adapter"] = options.adapter.name
    return origin


def made_with() -> dict[str, str]:
    """Return the versions that made the bundle."""
    found = {"python": platform.python_version()}
    for package in ("ttt-edge", "onnx", "onnxruntime", "torch", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found
