"""The options of an export, and what a bundle says of its making."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from ttt_export.evaluation import EvaluationOptions
from ttt_export.source import Checkpoint
from ttt_quant.recipe import Gates, Recipe, default_recipe, read_recipe
from ttt_ref.config import GenerationConfig
from ttt_ref.errors import BundleError, CheckpointError, ConfigError
from ttt_ref.released import prompts_or_released
from ttt_runtime.bundle.basic_spec import BASIC
from ttt_runtime.bundle.graph_spec import CacheLayout, Dim
from ttt_runtime.dialogue.prompt import Prompts, read_prompts

# Engines that are built for one cache length; the others bind as much as the context needs.
FIXED_CACHE_ENGINES: Final = ("tensorrt", "rtx")
DEFAULT_CACHE_ROWS: Final = 4096
CACHE_TYPES: Final[Mapping[str, str]] = {"fp16": "float16", "int8": "int8"}
ACCURACY: Final = "session.qdq_matmulnbits_accuracy_level"
ROUNDED: Final = "4"  # inputs of 4/8-bit products in 8 bit
BLOCK_BODIES: Final = ("int8",)  # storages of the second decoder
FORMS: Final = ("standard", BASIC)
MIN_CACHE_ROWS: Final = 128  # the validation's longest case must fit


@dataclass(frozen=True)
class ExportOptions:
    """The options of `ttt-export`; the defaults are a plain fp32 bundle for the CPU.

    Attributes:
        precision: fp32, fp16, bf16, int8 or int4; picks the recipe.
        engine: cpu, cuda, tensorrt or rtx.
        recipe: a recipe file instead of the default one.
        adapter: folder of a LoRA adapter to merge in.
        max_kl, min_agreement: gates instead of the recipe's.
        cache_rows: cache length of engines that need a fixed one.
        cache: element type of the K/V cache, fp16 or int8; None keeps that of the computation.
        block_body: storage of a second decoder for forwards of many rows (int8), or None.
        sequences: file of token sequences for calibration and the report.
        speech_tokenizer, speech_decoder: folders of the GLM-4-Voice codec.
        codec_from: a bundle whose codec is taken as it is, instead of exporting one.
        hub_name: the hub's name of the checkpoint, if it came from there; goes into the bundle.
        seed: draws synthetic sequences and the validation's inputs.
        questions: recordings to put to the finished bundle before it is published.
        prompts: a TOML or JSON file of system texts, in place of the checkpoint's own.
        force: replace an existing bundle.
        engines: build the engines of tensorrt and rtx too; without them `ttt-engines` builds them
            on the device.
        form: operators that the model's graphs are made of: standard (opset 24) or basic, for
            TensorRT before 10.15 and onnxruntime before 1.31.
        target: name of the machine that it is for (`machine.targets`); goes into the bundle.
    """

    precision: str = "fp32"
    engine: str = "cpu"
    recipe: Path | None = None
    adapter: Path | None = None
    max_kl: float | None = None
    min_agreement: float | None = None
    cache_rows: int | None = None
    cache: str | None = None
    block_body: str | None = None
    sequences: Path | None = None
    speech_tokenizer: Path | None = None
    speech_decoder: Path | None = None
    codec_from: Path | None = None
    hub_name: str | None = None
    seed: int = 0
    evaluation: EvaluationOptions | None = None
    force: bool = False
    engines: bool = True
    form: str = "standard"
    target: str | None = None
    prompts: Path | None = None

    def __post_init__(self) -> None:
        """Refuse forms that do not exist."""
        if self.form not in FORMS:
            raise ConfigError(f"--form is {self.form!r}; expected one of {', '.join(FORMS)}")

    @property
    def operators(self) -> str | None:
        """The attribute that the graphs' specs carry; None for the standard operators."""
        return None if self.form == "standard" else self.form

    @property
    def builds_engines(self) -> bool:
        """True if engines belong to this export."""
        return self.engines and self.engine in FIXED_CACHE_ENGINES

    def resolve_recipe(self) -> Recipe:
        """Return the recipe with this export's gates; ConfigError for an unknown combination."""
        recipe = default_recipe(self.precision, self.engine)
        if self.recipe is not None:
            recipe = read_recipe(self.recipe)
        recipe.check_engine(self.engine)
        gates = Gates(
            recipe.gates.max_kl if self.max_kl is None else self.max_kl,
            recipe.gates.min_agreement if self.min_agreement is None else self.min_agreement,
        )
        return replace(recipe, gates=gates)

    def check_evaluation(self) -> None:
        """Tell before the work what would keep the finished bundle from being evaluated."""
        if self.evaluation is None:
            return
        if self.engine in FIXED_CACHE_ENGINES and not self.engines:
            raise ConfigError(
                f"a bundle for {self.engine} without engines cannot be evaluated; leave out "
                "--evaluate or --no-engines"
            )
        self.evaluation.check()

    @property
    def cache_layout(self) -> CacheLayout:
        """Layout of the cache: TensorRT takes four axes, the others bind prefixes of rows."""
        return "heads" if self.engine in FIXED_CACHE_ENGINES else "rows"

    def uses_gqa(self, recipe: Recipe) -> bool:
        """True if the decoder gets the form that onnxruntime runs fastest on a CPU.

        Graphs of whole floats keep the standard form, which other devices run as well.

        Raises:
            ConfigError: a second body that is unknown or that this export cannot have.
        """
        fits = (
            self.engine == "cpu"
            and self.operators is None
            and recipe.compute == "float32"
            and self.cache_dtype(recipe) is None
            and bool(recipe.algorithms())
            and recipe.session.get(ACCURACY) == ROUNDED  # the GQA products always round
        )
        if self.block_body is not None and self.block_body not in BLOCK_BODIES:
            raise ConfigError(
                f"--block-body is {self.block_body!r}; expected one of {', '.join(BLOCK_BODIES)}"
            )
        if self.block_body is not None and not fits:
            raise ConfigError(
                f"--block-body {self.block_body} is for bundles in int8 or int4 for the CPU with "
                "a float32 cache, in the standard form"
            )
        return fits

    def cache_dtype(self, recipe: Recipe) -> str | None:
        """Return the cache's element type where it is not the recipe's compute type.

        Raises:
            ConfigError: an unknown type, or an engine that keeps no narrower cache.
        """
        if self.cache is None:
            return None
        if self.cache not in CACHE_TYPES:
            raise ConfigError(
                f"--cache-type is {self.cache!r}; expected one of {', '.join(CACHE_TYPES)}"
            )
        dtype = CACHE_TYPES[self.cache]
        if dtype == recipe.compute:
            return None
        if self.engine in FIXED_CACHE_ENGINES:
            raise ConfigError(
                f"--cache-type {self.cache}: TensorRT keeps its cache in the type that it computes "
                f"with, here {recipe.compute}"
            )
        return dtype

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


def extra_config(
    checkpoint: Checkpoint, prompts_file: Path | None = None
) -> tuple[dict[str, GenerationConfig], Mapping[str, Any]]:
    """Return the checkpoint's presets (the released two if it names none) and its prompts.

    A checkpoint of the released layout that names no prompts has the published tasks; a file of
    prompts stands in place of either.
    """
    presets = checkpoint.raw_config.get("ttt_presets")
    prompts = checkpoint.raw_config.get("ttt_prompts", {})
    if prompts_file is not None:
        prompts = read_prompts(prompts_file)
    if not isinstance(prompts, Mapping):
        raise CheckpointError(f"{checkpoint.path}: config.json: ttt_prompts must be a table")
    try:
        Prompts.from_dict(prompts)  # what the runtime would refuse is refused before the work
    except BundleError as error:
        raise CheckpointError(f"{checkpoint.path}: config.json: ttt_prompts: {error}") from None
    prompts, _ = prompts_or_released(prompts, checkpoint.layout)
    if presets is None:
        return {name: GenerationConfig.preset(name) for name in ("script", "paper")}, prompts
    if not isinstance(presets, Mapping):
        raise CheckpointError(f"{checkpoint.path}: config.json: ttt_presets must be a table")
    return {str(k): GenerationConfig.from_dict(v) for k, v in presets.items()}, prompts


def made_from(checkpoint: Checkpoint, options: ExportOptions, recipe: Recipe) -> dict[str, Any]:
    """Return what the bundle says of its origin (no paths of the machine that made it)."""
    origin: dict[str, Any] = {"checkpoint": checkpoint.path.resolve().name, "recipe": recipe.name}
    if options.hub_name is not None:
        origin["hub_name"] = options.hub_name  # the folder is then named by the commit
    if options.target is not None:
        origin["target"] = options.target
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
