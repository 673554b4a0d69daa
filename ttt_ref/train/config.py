"""The one TOML file that describes a training run.

Every section is a frozen dataclass; a key that no section knows is refused with the closest known
name, so that a misspelt option can never be silently ignored. `example.toml` beside this module
shows all of it with explanations.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ttt_ref.errors import ConfigError

T = TypeVar("T")

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
SEMANTICS = ("corrected", "released")
OPTIMIZERS = ("adamw", "muon")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    _require(value in allowed, f"{name} is {value!r}; expected one of {', '.join(allowed)}")


@dataclass(frozen=True)
class ModelSection:
    """Where the weights come from: a checkpoint folder, or a fresh model of the given shape."""

    checkpoint: str = ""
    tokenizer: str = ""
    hidden_size: int = 256
    intermediate_size: int = 704
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 4096
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02
    vocab_multiple: int = 1
    audio_init: str = "normal"
    fsq_levels: tuple[int, ...] = (3, 3, 3, 3, 3, 3)
    config_extra: str = ""

    def __post_init__(self) -> None:
        _require(
            bool(self.checkpoint) != bool(self.tokenizer),
            "[model] needs exactly one of `checkpoint` (continue from weights) and `tokenizer` "
            "(fresh weights of the shape given in [model])",
        )
        _one_of("model.audio_init", self.audio_init, ("normal", "fsq"))
        _require(self.vocab_multiple >= 1, "model.vocab_multiple must be at least 1")


@dataclass(frozen=True)
class DataFile:
    """One file of examples in a released format (json, jsonl or parquet) and its share."""

    path: str
    weight: float = 1.0
    name: str = ""

    def __post_init__(self) -> None:
        _require(self.weight > 0, f"data weight of {self.path} is {self.weight}; must be above 0")


@dataclass(frozen=True)
class BatchSection:
    """How examples become batches. Token counts are over all processes together."""

    tokens_per_batch: int = 4096
    max_length: int = 1024
    pool_examples: int = 4096
    cache_dir: str = ""

    def __post_init__(self) -> None:
        _require(
            self.tokens_per_batch >= self.max_length > 1,
            f"batch.tokens_per_batch is {self.tokens_per_batch}, batch.max_length "
            f"{self.max_length}; a batch must hold at least one example of full length",
        )
        _require(self.pool_examples >= 1, "batch.pool_examples must be at least 1")


@dataclass(frozen=True)
class ObjectiveSection:
    """Noise, strategies (BANOM, PPM, SST) and the known slips of the released training.

    ``span_overrun_prob`` is our own: see :func:`ttt_ref.train.transform.overrun_last_span`.
    """

    unmasked_audio_prob: float = 0.1
    prefix_preservation_ratio: float = 0.3
    span_truncation_prob: float = 0.5
    span_overrun_prob: float = 0.0
    span_overrun_block: int = 32
    text_loss_weight: float = 1.0
    speech_loss_weight: float = 1.0
    accumulation: str = "corrected"
    prompt_lengths: str = "corrected"
    truncation: str = "corrected"
    masked_predictors: str = "corrected"

    def __post_init__(self) -> None:
        for name in (
            "unmasked_audio_prob",
            "prefix_preservation_ratio",
            "span_truncation_prob",
            "span_overrun_prob",
        ):
            value = getattr(self, name)
            _require(0.0 <= value <= 1.0, f"objective.{name} is {value}; expected 0 to 1")
        _require(
            self.span_overrun_block >= 2,
            f"objective.span_overrun_block is {self.span_overrun_block}; expected 2 or more tokens",
        )
        for name in ("accumulation", "prompt_lengths", "truncation", "masked_predictors"):
            _one_of(f"objective.{name}", getattr(self, name), SEMANTICS)


@dataclass(frozen=True)
class AugmentSection:
    """Disturbance of the user's speech tokens; each example draws its own rate up to the limit."""

    user_code_flip: float = 0.0
    user_code_drop: float = 0.0
    user_code_repeat: float = 0.0
    flip_fsq_levels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("user_code_flip", "user_code_drop", "user_code_repeat"):
            value = getattr(self, name)
            _require(0.0 <= value < 1.0, f"augment.{name} is {value}; expected 0 to below 1")

    @property
    def active(self) -> bool:
        """Whether anything is disturbed at all."""
        return max(self.user_code_flip, self.user_code_drop, self.user_code_repeat) > 0


@dataclass(frozen=True)
class OptimizerSection:
    """AdamW or Muon, clipping, accumulation and the moving average of the weights."""

    name: str = "adamw"
    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-8
    weight_decay: float = 0.05
    momentum: float = 0.95
    max_grad_norm: float = 1.0
    accumulation_steps: int = 1
    fused: bool = True
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        _one_of("optimizer.name", self.name, OPTIMIZERS)
        _require(self.learning_rate > 0, "optimizer.learning_rate must be above 0")
        _require(self.accumulation_steps >= 1, "optimizer.accumulation_steps must be at least 1")
        for name in ("beta1", "beta2", "momentum", "ema_decay"):
            value = getattr(self, name)
            _require(0.0 <= value < 1.0, f"optimizer.{name} is {value}; expected 0 to below 1")
        for name in ("eps", "weight_decay"):
            value = getattr(self, name)
            _require(value >= 0.0, f"optimizer.{name} is {value}; expected 0 or more")


@dataclass(frozen=True)
class LoraSection:
    """Low-rank adapters through peft. ``rank`` 0 trains all weights.

    ``modules`` are the matrices that get an adapter; ``whole`` are trained whole and stored in the
    adapter (the table of embeddings, where the speech tokens are new). ``alpha`` is the numerator
    of the scale, alpha / rank.
    """

    rank: int = 0
    alpha: int = 32
    dropout: float = 0.0
    modules: tuple[str, ...] = (
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    )
    whole: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(self.rank >= 0, f"lora.rank is {self.rank}; expected 0 (none) or more")
        _require(self.alpha > 0, f"lora.alpha is {self.alpha}; must be above 0")
        _require(
            0.0 <= self.dropout < 1.0, f"lora.dropout is {self.dropout}; expected 0 to below 1"
        )
        _require(bool(self.modules), "lora.modules is empty; name at least one matrix")


@dataclass(frozen=True)
class ScheduleSection:
    """Warm-up by steps, then a cosine over steps or over minutes of training time."""

    max_steps: int = 0
    max_minutes: float = 0.0
    warmup_steps: int = 200
    min_lr_ratio: float = 0.02

    def __post_init__(self) -> None:
        _require(
            self.max_steps > 0 or self.max_minutes > 0,
            "[schedule] needs max_steps or max_minutes above 0 (whichever ends first counts)",
        )
        _require(0.0 <= self.min_lr_ratio <= 1.0, "schedule.min_lr_ratio must lie in 0 to 1")


@dataclass(frozen=True)
class CheckpointSection:
    """When the resumable state is written and how many are kept."""

    every_minutes: float = 10.0
    every_steps: int = 0
    keep: int = 2

    def __post_init__(self) -> None:
        _require(self.keep >= 1, "checkpoint.keep must be at least 1")


@dataclass(frozen=True)
class EvaluationSection:
    """When and on how much held-out data the losses and accuracies are measured."""

    every_steps: int = 500
    max_examples: int = 256
    at_end: bool = True


@dataclass(frozen=True)
class LogSection:
    """What is written while training runs."""

    every_steps: int = 20
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
    seed: int = 1
    precision: str = "auto"
    threads: int = 0
    master_weights: str = "fp32"
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
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("master_weights", self.master_weights, ("fp32", "bf16"))
        _require(
            not (self.lora.rank and self.model.tokenizer),
            "lora.rank is set, but [model] starts from fresh weights; give a `checkpoint`",
        )
        _require(
            not (self.lora.rank and self.optimizer.ema_decay),
            "lora.rank and optimizer.ema_decay are both set; adapters have no moving average",
        )
        _require(len(self.data) > 0, "no training data; add at least one [[data]] with a path")


def _convert(value: Any, kind: Any, where: str) -> Any:
    """Check one TOML value against a field's type and convert it. Errors: ConfigError."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        _require(isinstance(value, list | tuple), f"{where} is {value!r}; expected a list")
        return tuple(_convert(item, args[0], f"{where}[{i}]") for i, item in enumerate(value))
    if origin in (typing.Union, types.UnionType):
        raise AssertionError("union types are not used in the configuration")
    if dataclasses.is_dataclass(kind):
        _require(isinstance(value, dict), f"{where} is {value!r}; expected a table")
        return from_mapping(typing.cast("type[Any]", kind), value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise ConfigError(f"{where} is {value!r}; expected {kind.__name__}")
    return value


def from_mapping(kind: type[T], values: dict[str, Any], where: str = "") -> T:
    """Build a configuration dataclass from a mapping. Unknown or missing keys: ConfigError."""
    hints = typing.get_type_hints(kind)
    prefix = f"{where}." if where else ""
    built: dict[str, Any] = {}
    for key, value in values.items():
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            advice = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(hints)}"
            raise ConfigError(f"unknown key `{prefix}{key}`; {advice}")
        built[key] = _convert(value, hints[key], prefix + key)
    for item in dataclasses.fields(typing.cast("Any", kind)):
        needed = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if needed and item.name not in built:
            raise ConfigError(f"missing key `{prefix}{item.name}`")
    return kind(**built)


def _apply_override(values: dict[str, Any], text: str) -> None:
    """Set one `key.sub=value` of the command line; the value is read as TOML, else as text."""
    name, equals, raw = text.partition("=")
    _require(bool(equals) and bool(name.strip()), f"--set {text!r}; expected key=value")
    try:
        value = tomllib.loads(f"v = {raw}")["v"]
    except tomllib.TOMLDecodeError:
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
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a TOML file ({error}); see example.toml") from error
    for text in overrides or []:
        _apply_override(values, text)
    return from_mapping(TrainConfig, values)


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain lists and dicts, for the log and the checkpoint."""
    return dataclasses.asdict(config)
