"""`ttt-export --evaluate`: the finished bundle answers recordings before anybody can see it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from recipes.tiny import world
from ttt_export.evaluation import EvaluationOptions
from ttt_export.export import REPORT_FILE, export_checkpoint
from ttt_export.options import ExportOptions
from ttt_ref.errors import CheckpointError, ConfigError, ExportError
from ttt_runtime.bundle.folder import Bundle

ROOT = Path(__file__).parents[2]
TRAINED = ROOT / "checkpoints" / "tiny"
SHIPPED = ROOT / "runtime" / "ttt_runtime" / "bundles" / "tiny"


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A corpus of three questions of the world, spoken as faint noise."""
    folder = tmp_path / "test"
    folder.mkdir()
    rng = np.random.default_rng(5)
    texts = [e.question for e in world.exchanges() if e.held_out][:3]
    offset, lines, audio = 0, [], []
    for i, text in enumerate(texts):
        samples = (rng.standard_normal(12_000) * 900).astype("<i2")
        audio.append(samples.tobytes())
        entry = {
            "id": f"t{i}", "text": text, "phones": "", "engine": "espeak", "voice": "v",
            "split": "valid" if i else "heldout", "kind": "question", "offset": offset,
            "samples": len(samples),
        }  # fmt: skip
        lines.append(json.dumps(entry))
        offset += len(samples)
    (folder / "audio.i16").write_bytes(b"".join(audio))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_the_report_of_an_export_tells_what_the_bundle_answered(recordings, tmp_path):
    options = ExportOptions(
        precision="int8",
        codec_from=SHIPPED,
        evaluation=EvaluationOptions(recordings, 3, listen=False),
    )
    result = export_checkpoint(TRAINED, tmp_path / "out", options=options)
    told = json.loads((tmp_path / "out" / REPORT_FILE).read_text())["evaluation"]
    assert told == result.report.evaluation
    assert told["recordings"] == 3
    names = [row[0] for row in told["rows"]]
    assert names[0] == "answer text exactly right"
    table = result.report.table()
    assert "put 3 recordings" in table
    assert "  answer text exactly right: " in table
    Bundle.open(tmp_path / "out", "hashes")  # sealed anew with the report that was added to
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "test"]


def test_an_evaluation_that_fails_publishes_nothing(recordings, tied, tmp_path):
    """A golden checkpoint has no codec: its bundle cannot hear."""
    options = ExportOptions(evaluation=EvaluationOptions(recordings, 3, listen=False))
    with pytest.raises(ExportError, match=r"the evaluation of .* failed: .*codec"):
        export_checkpoint(tied, tmp_path / "out", options=options)
    assert [p.name for p in tmp_path.iterdir()] == ["test"]


def test_what_cannot_be_evaluated_is_told_before_the_work(recordings, tied, tmp_path, monkeypatch):
    monkeypatch.setattr("ttt_export.export.evaluate", None)
    nowhere = ExportOptions(evaluation=EvaluationOptions(tmp_path / "none", listen=False))
    with pytest.raises(ConfigError, match="is no speech corpus"):
        export_checkpoint(tied, tmp_path / "out", options=nowhere)
    without_engines = ExportOptions(
        precision="fp16", engine="rtx", engines=False, evaluation=EvaluationOptions(recordings)
    )
    with pytest.raises(ConfigError, match="a bundle for rtx without engines cannot be evaluated"):
        export_checkpoint(tied, tmp_path / "out", options=without_engines)
    assert [p.name for p in tmp_path.iterdir()] == ["test"]


@pytest.mark.parametrize(
    ("program", "line"),
    [
        ("python -c 'import sys; sys.exit(\"error: no judge\")'", "no judge"),
        ("no-such-program --x", "no-such-program cannot be run"),
        ("python -m recipes_of_another_place", "name a program with --evaluate-with"),
    ],
)
def test_a_program_that_cannot_evaluate_is_told_before_the_work(
    program, line, recordings, tied, tmp_path
):
    options = ExportOptions(evaluation=EvaluationOptions(recordings, program=program))
    with pytest.raises(ConfigError, match=line):
        export_checkpoint(tied, tmp_path / "out", options=options)
    assert [p.name for p in tmp_path.iterdir()] == ["test"]


@pytest.mark.parametrize("prompts", [{"working_mark": "::"}, {"working_mark": 5}, {"other": 1}])
def test_prompts_that_the_runtime_would_refuse_are_not_exported(prompts, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(TRAINED, broken)
    config = json.loads((broken / "config.json").read_text())
    config["ttt_prompts"].update(prompts)
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json: ttt_prompts: .*prompts must hold"):
        export_checkpoint(broken, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["broken"]
