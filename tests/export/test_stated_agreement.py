"""Every option of `fast` keeps the agreement with `exact` that docs/approximations.json states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ttt_ref.config import GenerationConfig
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.decode.engine import SpeechEngine
from ttt_runtime.profiler.agreement import DEFAULT_OPTIONS, Agreement, markdown, measure_agreement
from ttt_runtime.profiler.prompts import random_prompts, said_prompts
from ttt_runtime.profiler.stated import (
    BEGIN,
    END,
    STATED,
    fingerprint,
    read_state,
    rewrite_state,
    rewrite_table,
)  # fmt: skip

ROOT = Path(__file__).resolve().parents[2]
STATE = read_state(ROOT / "docs" / "approximations.json")
TEXTS = ROOT / "samples" / "questions.txt"
SHIPPED = ROOT / "runtime" / "ttt_runtime" / "bundles" / "tiny"
# Other kernels round otherwise, and a near tie may go the other way: one answer of sixteen.
SLACK = 1 / 16 + 1e-9
RESTATE = (
    "python -m ttt_runtime.profiler.agreement runtime/ttt_runtime/bundles/tiny "
    "--say samples/questions.txt --state docs/approximations.json --table docs/approximations.md"
)


def hold(found: Iterable[Agreement], stated: Mapping[str, Any]) -> None:
    rows = {row["option"]: row for row in stated["options"]}
    assert set(rows) >= set(DEFAULT_OPTIONS)
    for measured in found:
        row = rows[measured.option]
        for name in STATED:
            value = getattr(measured, name)
            assert value >= row[name] - SLACK, (measured.option, name, value, row[name])
        assert measured.forwards_saved >= row["forwards_saved"] - SLACK, measured


def test_on_the_fixed_random_weights(exported: Any) -> None:
    stated = STATE["fixed"]
    folder = exported(ROOT / "tests" / "golden" / "ttt" / "checkpoints" / "tiny-tied").path
    bundle = Bundle.open(folder)
    config = GenerationConfig.from_dict(stated["generation"])
    engine = SpeechEngine.from_bundle(bundle, threads=1)
    prompts = random_prompts(bundle, stated["prompt_count"])
    hold(measure_agreement(engine.runner, engine.layout, prompts, config), stated)


def test_on_the_shipped_model() -> None:
    stated = STATE["shipped"]
    bundle = Bundle.open(SHIPPED)
    assert fingerprint(bundle) == stated["fingerprint"], (
        f"another model ships than was measured; state its options anew with: {RESTATE}"
    )
    config = GenerationConfig.from_dict(stated["generation"])
    engine = SpeechEngine.from_bundle(bundle, threads=1)
    prompts = said_prompts(bundle, engine, config, TEXTS)
    hold(measure_agreement(engine.runner, engine.layout, prompts, config), stated)


def test_the_table_shows_what_is_stated() -> None:
    rows = [Agreement(**row) for row in STATE["shipped"]["options"]]
    text = (ROOT / "docs" / "approximations.md").read_text()
    assert BEGIN in text
    shown = text.partition(BEGIN)[2].partition(END)[0].strip()
    assert shown == markdown(rows), f"rewrite it with: {RESTATE}"


def test_rewriting_touches_only_its_part(tmp_path: Path) -> None:
    state, readme = tmp_path / "s.json", tmp_path / "r.md"
    rewrite_state(state, {"prompts": "random", "options": [1]})
    rewrite_state(state, {"prompts": "said", "options": [2]})
    rewrite_state(state, {"prompts": "said", "options": [3]})
    found = read_state(state)
    assert (found["fixed"]["options"], found["shipped"]["options"]) == ([1], [3])
    readme.write_text(f"a\n{BEGIN}\nold\n{END}\nz\n")
    rewrite_table(readme, "| new |")
    assert readme.read_text() == f"a\n{BEGIN}\n| new |\n{END}\nz\n"
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="no lines"):
        rewrite_table(readme, "t")
    state.write_text("[]")
    with pytest.raises(ValueError, match="no JSON table"):
        read_state(state)
