"""The one TOML file that describes a training run.

Every section is a frozen dataclass; a key that no section knows is refused with the closest known
name, so that a misspelt option can never be silently ignored. `example.toml` beside this module
shows all of it with explanations.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from ttt_ref.bounded import Unreadable, parse_toml, read_toml
from ttt_ref.errors import ConfigError
from ttt_ref.ranges import (
    AnyAmount,
    BatchTokens,
    Context,
    Heads,
    Layers,
    Positive,
    SequenceTokens,
    Share,
    ShareBelowOne,
    SomeSteps,
    Steps,
    Threads,
    Width,
)
from ttt_ref.schema import Length, OneOf, Range, build

T = TypeVar("T")

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
Semantics = Annotated[str, OneOf("corrected", "released")]
OPTIMIZERS = ("adamw", "muon")
Levels = Annotated[tuple[Annotated[int, Range(2, 1024)], ...], Length(0, 64)]
Names = Annotated[tuple[str, ...], Length(0, 1000)]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True)
class ModelSection:
    """Where the weights come from: a checkpoint folder, or a fresh model of the given shape."""

    checkpoint: str = ""
    tokenizer: str = ""
    hidden_size: Width = 256
    intermediate_size: Width = 704
    num_hidden_layers: Layers = 6
    num_attention_heads: Heads = 4
    num_key_value_heads: Heads = 2
    rope_theta: Positive = 10_000.0
    rms_norm_eps: Positive = 1e-6
    max_position_embeddings: Context = 4096
    tie_word_embeddings: bool = True
    initializer_range: Positive = 0.02
    vocab_multiple: Annotated[int, Range(1, 65536)] = 1
    audio_init: Annotated[str, OneOf("normal", "fsq")] = "normal"
    fsq_levels: Levels = (3, 3, 3, 3, 3, 3)
    config_extra: str = ""

    def __post_init__(self) -> None:
        _require(
            bool(self.checkpoint) != bool(self.tokenizer),
            "[model] needs exactly one of `checkpoint` (continue from weights) and `tokenizer` "
            "(fresh weights of the shape given in [model])",
        )


@dataclass(frozen=True)
class DataFile:
    """One file of examples in a released format (json, jsonl or parquet) and its share."""

    path: str
    weight: Positive = 1.0
    name: str = ""


@dataclass(frozen=True)
class BatchSection:
    """How examples become batches. Token counts are over all processes together."""

    tokens_per_batch: BatchTokens = 4096
    max_length: SequenceTokens = 1024
    pool_examples: Annotated[int, Range(1, 1 << 20)] = 4096
    cache_dir: str = ""

    def __post_init__(self) -> None:
        _require(
            self.tokens_per_batch >= self.max_length,
            f"batch.tokens_per_batch is {self.tokens_per_batch}, batch.max_length "
            f"{self.max_length}; a batch must hold at least one example of full length",
        )


@dataclass(frozen=True)
class ObjectiveSection:
    """Noise, strategies (BANOM, PPM, SST) and the known slips of the released training.

    ``span_overrun_prob`` is our own: see :func:`ttt_ref.train.transform.overrun_last_span`.
    """

    unmasked_audio_prob: Share = 0.1
    prefix_preservation_ratio: Share = 0.3
    span_truncation_prob: Share = 0.5
    span_overrun_prob: Share = 0.0
    span_overrun_block: SequenceTokens = 32
    text_loss_weight: AnyAmount = 1.0
    speech_loss_weight: AnyAmount = 1.0
    accumulation: Semantics = "corrected"
    prompt_lengths: Semantics = "corrected"
    truncation: Semantics = "corrected"
    masked_predictors: Semantics = "corrected"


@dataclass(frozen=True)
class AugmentSection:
    """Disturbance of the user's speech tokens; each example draws its own rate up to the limit."""

    user_code_flip: ShareBelowOne = 0.0
    user_code_drop: ShareBelowOne = 0.0
    user_code_repeat: ShareBelowOne = 0.0
    flip_fsq_levels: Levels = ()

    @property
    def active(self) -> bool:
        """Whether anything is disturbed at all."""
        return max(self.user_code_flip, self.user_code_drop, self.user_code_repeat) > 0


@dataclass(frozen=True)
class OptimizerSection:
    """AdamW or Muon, clipping, accumulation and the moving average of the weights."""

    name: Annotated[str, OneOf(*OPTIMIZERS)] = "adamw"
    learning_rate: Annotated[float, Range(above=0, most=1000)] = 1e-3
    beta1: ShareBelowOne = 0.9
    beta2: ShareBelowOne = 0.98
    eps: Share = 1e-8
    weight_decay: AnyAmount = 0.05
    momentum: ShareBelowOne = 0.95
    max_grad_norm: AnyAmount = 1.0
    accumulation_steps: Annotated[int, Range(1, 1 << 20)] = 1
    fused: bool = True
    ema_decay: ShareBelowOne = 0.0


@dataclass(frozen=True)
class LoraSection:
    """Low-rank adapters through peft. ``rank`` 0 trains all weights.

    ``modules`` are the matrices that get an adapter; ``whole`` are trained whole and stored in the
    adapter (the table of embeddings, where the speech tokens are new). ``alpha`` is the numerator
    of the scale, alpha / rank.
    """

    rank: Annotated[int, Range(0, 1 << 16)] = 0
    alpha: Annotated[int, Range(1, 1 << 20)] = 32
    dropout: ShareBelowOne = 0.0
    modules: Names = (
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    )
    whole: Names = ()

    def __post_init__(self) -> None:
        _require(bool(self.modules), "lora.modules is empty; name at least one matrix")


@dataclass(frozen=True)
class ScheduleSection:
    """Warm-up by steps, then a cosine over steps or over minutes of training time."""

    max_steps: Steps = 0
    max_minutes: AnyAmount = 0.0
    warmup_steps: Steps = 200
    min_lr_ratio: Share = 0.02

    def __post_init__(self) -> None:
        _require(
            self.max_steps > 0 or self.max_minutes > 0,
            "[schedule] needs max_steps or max_minutes above 0 (whichever ends first counts)",
        )


@dataclass(frozen=True)
class CheckpointSection:
    """When the resumable state is written and how many are kept."""

    every_minutes: AnyAmount = 10.0
    every_steps: Steps = 0
    keep: SomeSteps = 2


@dataclass(frozen=True)
class EvaluationSection:
    """When and on how much held-out data the losses and accuracies are measured."""

    every_steps: Steps = 500
    max_examples: Annotated[int, Range(0, 1 << 30)] = 256
    at_end: bool = True


@dataclass(frozen=True)
class LogSection:
    """What is written while training runs."""

    every_steps: Steps = 20
    tensorboard: bool = True
    progress: bool = True


@dataclass(frozen=True)
class TrainConfig:
    """A whole training run. Read it with :func:`read_config`.

    With `skip_bad`, records that cannot be used are passed over and counted, not refused.
    """

    output_dir: str
    model: ModelSection
    data: tuple[DataFile, ...]
    schedule: ScheduleSection
    eval_data: tuple[DataFile, ...] = ()
    seed: Annotated[int, Range(0, (1 << 63) - 1)] = 1
    precision: Annotated[str, OneOf(*PRECISIONS)] = "auto"
    threads: Threads = 0
    master_weights: Annotated[str, OneOf("fp32", "bf16")] = "fp32"
    gradient_checkpointing: bool = False
    skip_bad: bool = False
    batch: BatchSection = field(default_factory=BatchSection)
    objective: ObjectiveSection = field(default_factory=ObjectiveSection)
    augment: AugmentSection = field(default_factory=AugmentSection)
    optimizer: OptimizerSection = field(default_factory=OptimizerSection)
    lora: LoraSection = field(default_factory=LoraSection)
    checkpoint: CheckpointSection = field(default_factory=CheckpointSection)
    evaluation: EvaluationSection = field(default_factory=EvaluationSection)
    log: LogSection = field(default_factory=LogSection)

    def __post_init__(self) -> None:
        _require(
            not (self.lora.rank and self.model.tokenizer),
            "lora.rank is set, but [model] starts from fresh weights; give a `checkpoint`",
        )
        _require(
            not (self.lora.rank and self.optimizer.ema_decay),
            "lora.rank and optimizer.ema_decay are both set; adapters have no moving average",
        )
        _require(len(self.data) > 0, "no training data; add at least one [[data]] with a path")


def from_mapping(kind: type[T], values: dict[str, Any], where: str = "") -> T:
    """Build a configuration dataclass from a mapping. Unknown or missing keys: ConfigError."""
    return build(kind, values, where)


def _apply_override(values: dict[str, Any], text: str) -> None:
    """Set one `key.sub=value` of the command line; the value is read as TOML, else as text."""
    name, equals, raw = text.partition("=")
    _require(bool(equals) and bool(name.strip()), f"--set {text!r}; expected key=value")
    try:
        value = parse_toml(f"v = {raw}")["v"]
    except Unreadable:
        value = raw
    *tables, last = name.strip().split(".")
    target = values
    for table in tables:
        target = target.setdefault(table, {})
        _require(isinstance(target, dict), f"--set {text!r}; `{table}` is not a table")
    target[last] = value


def read_config(path: Path, overrides: list[str] | None = None) -> TrainConfig:
    """Read a TOML file and apply `--set` overrides. Errors: ConfigError, OSError.

    Relative paths inside the file are relative to the current folder, as typed by the user.
    """
    values = read_toml(path, error=ConfigError, advice="see example.toml")
    for text in overrides or []:
        _apply_override(values, text)
    return from_mapping(TrainConfig, values)


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain lists and dicts, for the log and the checkpoint."""
    return dataclasses.asdict(config)
