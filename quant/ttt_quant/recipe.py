"""Recipes: which weight is stored how, as data in a TOML file.

A recipe is an ordered list of rules; the first whose pattern matches a matrix's name decides its
scheme. Matrices are called `layers.<i>.attn.qkv`, `layers.<i>.attn.out`, `layers.<i>.mlp.gate_up`,
`layers.<i>.mlp.down`, `text_head` and `speech_head`. Layers can also be counted from the end: the
last layer's `down` matches `layers.-1.mlp.down` as well. Norms and biases always keep the type
that the graph computes with.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from ttt_quant.scheme import FLOAT_KINDS, Scheme
from ttt_ref.bounded import read_toml
from ttt_ref.errors import ConfigError
from ttt_ref.ranges import AnyAmount, Name, Share, Word
from ttt_ref.schema import Length, build, check

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int4", "fp8")
ENGINES = ("cpu", "cuda", "tensorrt", "rtx")
TENSORRT = ("tensorrt", "rtx")
EMBEDDING_TYPES = ("float32", "float16", "int8")
CODEC_PRECISIONS = ("fp32", "fp16", "int8")
_FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Rule:
    """A name pattern (shell style: * ? [..]) and the scheme of what it matches."""

    match: str
    scheme: Scheme


@dataclass(frozen=True)
class Gates:
    """What the quality report must show for an export to be published.

    Attributes:
        max_kl: largest mean KL divergence from the checkpoint, of text and of speech choices.
        min_agreement: smallest share of equal choices, of text and of revealed speech tokens.
    """

    max_kl: AnyAmount
    min_agreement: Share

    def __post_init__(self) -> None:
        check(self, "gate")


@dataclass(frozen=True)
class Recipe:
    """How a checkpoint is stored.

    Attributes:
        name: said in reports and in the bundle.
        compute: float type of activations and cache.
        rules: first match decides; there must be one for every matrix.
        embeddings: type of the embedding table.
        gates: what the result must reach.
        session: onnxruntime session options that the graphs are made for.
        codec: precision of the speech codec's graphs; None stands for the bundle's own.
    """

    name: str
    compute: str
    rules: tuple[Rule, ...]
    embeddings: str
    gates: Gates
    session: Mapping[str, str] = field(default_factory=dict)
    codec: str | None = None

    def __post_init__(self) -> None:
        if self.codec not in (None, *CODEC_PRECISIONS):
            raise ConfigError(
                f"recipe {self.name}: codec is {self.codec!r}; "
                f"expected one of {', '.join(CODEC_PRECISIONS)}"
            )
        if self.compute not in FLOAT_KINDS:
            raise ConfigError(
                f"recipe {self.name}: compute is {self.compute!r}; "
                f"expected one of {', '.join(FLOAT_KINDS)}"
            )
        if self.embeddings not in EMBEDDING_TYPES:
            raise ConfigError(
                f"recipe {self.name}: embeddings is {self.embeddings!r}; "
                f"expected one of {', '.join(EMBEDDING_TYPES)}"
            )
        if not self.rules:
            raise ConfigError(f"recipe {self.name} has no rules")

    def scheme(self, matrix: str, layers: int) -> Scheme:
        """Return the scheme of a matrix; ConfigError if no rule matches it.

        Args:
            matrix: name of the matrix.
            layers: number of layers, for patterns that count from the end.
        """
        names = [matrix]
        numbered = re.match(r"layers\.(\d+)\.", matrix)
        if numbered:
            index = int(numbered[1])
            names.append(f"layers.{index - layers}.{matrix[numbered.end() :]}")
        for rule in self.rules:
            if any(fnmatch.fnmatchcase(name, rule.match) for name in names):
                return rule.scheme
        raise ConfigError(
            f"recipe {self.name} has no rule for {matrix}; end it with a rule for '*'"
        )

    def algorithms(self) -> set[str]:
        """Return the algorithms that integer rules name."""
        return {rule.scheme.algorithm for rule in self.rules if rule.scheme.is_integer}

    @property
    def rounds_inputs(self) -> bool:
        """True if graphs round what some matrices receive."""
        return any(rule.scheme.rounds_inputs for rule in self.rules)

    def check_engine(self, engine: str) -> None:
        """Raise ConfigError for what the engine is known not to take."""
        for rule in self.rules:
            if rule.scheme.rounds_inputs and engine not in TENSORRT:
                raise ConfigError(
                    f"recipe {self.name}: fp8 products are for {' and '.join(TENSORRT)}, not for "
                    f"{engine}, which would only widen them again; use int8 or int4 there"
                )
            if rule.scheme.has_zeros and engine in TENSORRT:
                raise ConfigError(
                    f"recipe {self.name}: rule {rule.match!r} makes zero points, which TensorRT "
                    "does not take; set symmetric = true and another algorithm than hqq"
                )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> Recipe:
        """Read a parsed TOML table; ConfigError names what is missing, unknown or wrong."""
        read = build(_Stored, data, where)
        return cls(
            name=read.name,
            compute=read.compute,
            rules=tuple(
                Rule(rule.match, Scheme(**{k: getattr(rule, k) for k in _SCHEME_KEYS}))
                for rule in read.rule
            ),
            embeddings=read.embeddings,
            gates=read.gates,
            session={k: str(v) for k, v in read.session.items()},
            codec=read.codec,
        )


@dataclass(frozen=True)
class _StoredRule:
    """A `[[rule]]` table."""

    match: Name
    kind: str = Scheme.kind
    block: int = Scheme.block
    algorithm: str = Scheme.algorithm
    symmetric: bool = Scheme.symmetric
    whole_columns: bool = Scheme.whole_columns


_SCHEME_KEYS = tuple(f.name for f in fields(Scheme))


@dataclass(frozen=True)
class _Stored:
    """A recipe file."""

    name: Name
    compute: str
    embeddings: str
    gates: Gates
    rule: Annotated[tuple[_StoredRule, ...], Length(1, 10_000)]
    codec: str | None = None
    session: Annotated[Mapping[str, bool | int | float | Word], Length(0, 64)] = field(
        default_factory=dict
    )


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file, or one of ours by its bare name; ConfigError if it is no recipe."""
    if not path.exists() and path.name == str(path) and (_FOLDER / f"{path}.toml").is_file():
        path = _FOLDER / f"{path}.toml"
    try:
        data = read_toml(path, error=ConfigError)
    except FileNotFoundError:
        ours = ", ".join(sorted(file.stem for file in _FOLDER.glob("*.toml")))
        raise ConfigError(f"no recipe file at {path}; ours are {ours}") from None
    return Recipe.from_dict(data, str(path))


def default_recipe(precision: str, engine: str) -> Recipe:
    """Return the tested recipe of a precision and an engine; ConfigError for an unknown pair."""
    if precision not in PRECISIONS:
        raise ConfigError(
            f"unknown precision {precision!r}; expected one of {', '.join(PRECISIONS)}"
        )
    if engine not in ENGINES:
        raise ConfigError(f"unknown engine {engine!r}; expected one of {', '.join(ENGINES)}")
    if precision == "fp8" and engine not in TENSORRT:
        raise ConfigError(
            f"precision fp8 with engine {engine}: there are no fp8 products there; take "
            f"{' or '.join(TENSORRT)}, or int8"
        )
    target = "cpu" if engine == "cpu" else "gpu"
    return read_recipe(_FOLDER / f"{precision}-{target}.toml")
