"""The variants that the quality table compares: precisions, algorithms, blocks, and what is spared.

Each is a recipe as text. The integer ones differ from the default of their precision in one thing
at a time, so that a row of the table answers one question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

ALGORITHMS: Final = ("rtn", "hqq", "gptq", "awq")
BLOCKS: Final = (128, 32)
_ROUNDED = "4"  # activations in 8 bit, as our CPU recipes ship
_EXACT = "1"  # activations in float32

# A rule: what it matches, kind, block, algorithm.
_RuleText = tuple[str, str, int, str]


@dataclass(frozen=True)
class Variant:
    """One row of the table.

    Attributes:
        name: the row's name and the stem of its files.
        precision: what the export is called with.
        recipe: TOML text, the name of one of our recipes, or None for the precision's default.
        own_codec: export the codec in this precision too, as a user's export does.
        engine: what the graphs are made for; those for others than the CPU are not heard.
        cache: type of the K/V cache, None as computed.
        cache_rows: length of a fixed cache; every forward reads all of it.
    """

    name: str
    precision: str
    recipe: str | None = None
    own_codec: bool = False
    engine: str = "cpu"
    cache: str | None = None
    cache_rows: int | None = None


def _toml(name: str, rules: Sequence[_RuleText], level: str, symmetric: bool = True) -> str:
    lines = [
        f'name = "{name}"',
        'compute = "float32"',
        'embeddings = "int8"',
        "[gates]",
        "max_kl = 1e9",
        "min_agreement = 0",
        "[session]",
        f'"session.qdq_matmulnbits_accuracy_level" = "{level}"',
    ]
    for match, kind, block, algorithm in rules:
        lines += [
            "[[rule]]",
            f'match = "{match}"',
            f'kind = "{kind}"',
            f"block = {block}",
            f'algorithm = "{algorithm}"',
            f"symmetric = {str(symmetric).lower()}",
        ]
    return "\n".join(lines) + "\n"


def _integer(name: str, rules: Sequence[_RuleText], level: str = _ROUNDED) -> Variant:
    return Variant(name, "int4" if "int4" in name else "int8", _toml(name, rules, level))


def variants() -> list[Variant]:
    """Return all rows in the order of the table."""
    head: _RuleText = ("speech_head", "int8", 128, "rtn")
    text: _RuleText = ("text_head", "int8", 128, "rtn")
    edges: list[_RuleText] = [(f"layers.{i}.*", "int8", 128, "rtn") for i in (0, -1)]
    rest: _RuleText = ("*", "int4", 128, "rtn")
    rows = [Variant(f"{kind}", kind) for kind in ("fp32", "fp16", "bf16")]
    rows += [_integer(f"int8 b128 {a}", [("*", "int8", 128, a)]) for a in ALGORITHMS]
    rows += [
        _integer(f"int4 b{block} {a}", [head, ("*", "int4", block, a)])
        for block in BLOCKS
        for a in ALGORITHMS
    ]
    return [
        *rows,
        # What sparing a part is worth, one part after the other.
        _integer("int4 b128 rtn, nothing spared", [rest]),
        _integer("int4 b128 rtn, both heads int8", [head, text, rest]),
        _integer("int4 b128 rtn, edge layers int8", [head, *edges, rest]),
        _integer("int4 b128 rtn, attention int8", [head, ("*.attn.*", "int8", 128, "rtn"), rest]),
        _integer("int4 b128 rtn, mlp.down int8", [head, ("*.mlp.down", "int8", 128, "rtn"), rest]),
        # What 8-bit activations cost.
        _integer("int8 b128 rtn, exact activations", [("*", "int8", 128, "rtn")], _EXACT),
        _integer("int4 b128 rtn, exact activations", [head, rest], _EXACT),
        # What a narrower cache costs.
        Variant("fp32, cache fp16", "fp32", cache="fp16"),
        Variant("fp32, cache int8", "fp32", cache="int8"),
        # Inputs and weights in float8, computed in float16: for TensorRT.
        Variant("fp8", "fp8", engine="rtx", cache_rows=256),
        # What a user gets.
        Variant("recipe int8-cpu with its codec", "int8", None, own_codec=True),
        Variant("recipe int4-cpu with its codec", "int4", None, own_codec=True),
        Variant("recipe int4-gptq-cpu with its codec", "int4", "int4-gptq-cpu", own_codec=True),
    ]
