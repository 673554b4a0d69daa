"""From corpora to training conversations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes.tiny import voices, world
from recipes.tiny.build import RefusedShares, build
from recipes.tiny.dialogues import UNHEARD
from tests.recipes.corpora import write_corpus
from ttt_ref.errors import ConfigError
from ttt_ref.tokenizer_files import TOKENIZER_FILES

CODEC = Path(__file__).parents[2] / "checkpoints" / "tiny" / "codec"
EACH = 3


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A corpus of known questions, of as many to refuse, and of their answers by the teacher."""
    asked = [e for e in world.exchanges() if e.kind == "capitals" and not e.held_out][:EACH]
    asked += [e for e in world.exchanges() if e.kind == "unknown"][:EACH]
    said = sorted({e.answer for e in asked})
    folder = write_corpus(tmp_path / "data", len(asked) + len(said))
    manifest = folder / "manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    for line, exchange in zip(lines, asked, strict=False):
        line.update(text=exchange.question, kind="question", split="train")
    for line, answer in zip(lines[len(asked) :], said, strict=True):
        line.update(text=answer, kind="answer", split="train")
        line.update(engine=voices.TEACHER[0], voice=voices.TEACHER[1])
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize(
    ("recorded", "degraded", "refusals"), [(1.0, 0.0, EACH), (0.0, 1.0, 2 * EACH), (1.0, 1.0, 9)]
)
def test_refusals_are_thinned_apart_for_degraded_copies(
    data: Path, tmp_path: Path, recorded: float, degraded: float, refusals: int
) -> None:
    out = tmp_path / "out"
    build(data, CODEC, out, 2, 0, refused=RefusedShares(recorded, degraded))
    rows = (out / "train-transcribe.jsonl").read_text().splitlines()
    heard = [json.loads(row)["messages"][2]["content"] for row in rows]
    assert sum(text.endswith(UNHEARD) for text in heard) == refusals
    assert len(heard) - refusals == 3 * EACH


def test_of_an_earlier_model_only_its_tokenizer_is_taken(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(data, CODEC, out, 1, 0, words=CODEC.parent)
    taken = {path.name for path in (out / "tokenizer").iterdir()}
    assert {"tokenizer.json", "vocab.json"} <= taken <= set(TOKENIZER_FILES)


@pytest.mark.parametrize("share", [float("nan"), -0.1, 2.0])
def test_impossible_shares_are_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="expected 0 to 1"):
        RefusedShares(degraded=share)
