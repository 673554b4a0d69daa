"""Recipes are data: read strictly, first match decides."""

from __future__ import annotations

from pathlib import Path

import pytest

from ttt_export.options import ExportOptions
from ttt_quant.recipe import CODEC_PRECISIONS, ENGINES, PRECISIONS, default_recipe, read_recipe
from ttt_ref.errors import ConfigError

MATRICES = [
    *(f"layers.{i}.{part}" for i in (0, 7, 35) for part in ("attn.qkv", "attn.out")),
    *(f"layers.{i}.{part}" for i in (0, 7, 35) for part in ("mlp.gate_up", "mlp.down")),
    "text_head",
    "speech_head",
]

GOOD = """
name = "mine"
compute = "float32"
embeddings = "int8"
[gates]
max_kl = 0.1
min_agreement = 0.9
[[rule]]
match = "layers.-1.*"
kind = "int8"
block = 32
[[rule]]
match = "layers.*.mlp.*"
kind = "int4"
algorithm = "gptq"
[[rule]]
match = "*"
kind = "float16"
"""


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_pair_has_a_recipe_for_every_matrix(precision, engine):
    if precision == "fp8" and engine not in ("tensorrt", "rtx"):
        with pytest.raises(ConfigError, match="fp8"):
            default_recipe(precision, engine)
        return
    recipe = default_recipe(precision, engine)
    recipe.check_engine(engine)
    for name in MATRICES:
        recipe.scheme(name, 36).fitted(2048)
    if precision in ("int8", "int4"):
        assert recipe.scheme("layers.7.mlp.down", 36).kind == precision
    assert recipe.codec in CODEC_PRECISIONS
    if precision == "int4":
        assert recipe.scheme("speech_head", 36).bits >= 8


def test_our_recipes_go_by_their_names():
    recipe = read_recipe(Path("int4-gptq-cpu"))
    assert recipe.scheme("layers.3.mlp.down", 6).algorithm == "gptq"
    assert recipe.scheme("layers.5.mlp.down", 6).kind == "int8"
    with pytest.raises(ConfigError, match="int4-gptq-cpu"):
        read_recipe(Path("int4-gtpq-cpu"))


def write(tmp_path, text):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return path


def test_first_match_decides(tmp_path):
    recipe = read_recipe(write(tmp_path, GOOD))
    assert recipe.scheme("layers.35.mlp.down", 36).describe() == "int8 b32 rtn"
    assert recipe.scheme("layers.34.mlp.down", 36).describe() == "int4 b128 gptq"
    assert recipe.scheme("layers.34.attn.qkv", 36).describe() == "float16"
    assert recipe.algorithms() == {"rtn", "gptq"}


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ('compute = "float32"', 'compute = "float8"', "float8"),
        ('embeddings = "int8"', 'embeddings = "int2"', "int2"),
        ('embeddings = "int8"', 'embeddings = "int8"\ncodec = "int3"', "int3"),
        ("max_kl = 0.1", "max_kl = -1", "max_kl"),
        ("min_agreement = 0.9", "", "min_agreement"),
        ("min_agreement = 0.9", "min_agreement = 0.9\nspeed = 3", "speed"),
        ('kind = "int4"', 'kind = "int5"', "int5"),
        ("block = 32", "blocks = 32", "blocks"),
        ('match = "*"', "", "match"),
        ('name = "mine"', "name = ", "TOML"),
        ("[[rule]]", "[[rules]]", "rules"),
    ],
)
def test_wrong_recipes(tmp_path, old, new, part):
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        read_recipe(path)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_matrix_without_a_rule(tmp_path):
    recipe = read_recipe(write(tmp_path, GOOD.replace('match = "*"', 'match = "text_*"')))
    with pytest.raises(ConfigError, match="speech_head"):
        recipe.scheme("speech_head", 36)


@pytest.mark.parametrize(("session", "gqa"), [("4", True), ("1", False), (None, False)])
def test_a_recipe_that_rounds_no_inputs_is_kept_to(tmp_path, session, gqa):
    """The GQA decoder rounds what its products receive, whatever the recipe had asked for."""
    key = "session.qdq_matmulnbits_accuracy_level"
    table = "" if session is None else f'[session]\n"{key}" = "{session}"\n'
    path = write(tmp_path, GOOD.replace("[[rule]]", f"{table}[[rule]]", 1))
    options = ExportOptions(precision="int4", recipe=path)
    assert options.uses_gqa(options.resolve_recipe()) is gqa


def test_missing_recipe(tmp_path):
    with pytest.raises(ConfigError, match="no recipe file"):
        read_recipe(tmp_path / "none.toml")
