"""`ttt-export --ask`: the finished bundle answers recordings before anybody can see it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ttt_export import asked
from ttt_export.asked import Questions
from ttt_export.export import REPORT_FILE, export_checkpoint
from ttt_export.options import ExportOptions
from ttt_ref.errors import CheckpointError, ConfigError, DataError, ExportError
from ttt_ref.recipes.tiny import listener, world
from ttt_runtime.bundle import Bundle

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
        precision="int8", codec_from=SHIPPED, questions=Questions(recordings, 3, listen=False)
    )
    result = export_checkpoint(TRAINED, tmp_path / "out", options=options)
    told = json.loads((tmp_path / "out" / REPORT_FILE).read_text())["asked"]
    assert told == result.report.asked
    assert told["recordings"] == 3
    names = [row[0] for row in told["rows"]]
    assert names[0] == "answer text exactly right"
    table = result.report.table()
    assert "asked 3 recordings" in table
    assert "  answer text exactly right: " in table
    Bundle.open(tmp_path / "out", "hashes")  # sealed anew with the report that was added to
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "test"]


def test_an_evaluation_that_fails_publishes_nothing(recordings, tied, tmp_path):
    """A golden checkpoint has no codec: its bundle cannot hear."""
    options = ExportOptions(questions=Questions(recordings, 3, listen=False))
    with pytest.raises(ExportError, match=r"the evaluation of .* failed: .*codec"):
        export_checkpoint(tied, tmp_path / "out", options=options)
    assert [p.name for p in tmp_path.iterdir()] == ["test"]


def test_what_cannot_be_asked_is_told_before_the_work(recordings, tied, tmp_path, monkeypatch):
    monkeypatch.setattr(asked, "evaluate", None)
    with pytest.raises(DataError, match="is no speech corpus"):
        export_checkpoint(
            tied, tmp_path / "out", options=ExportOptions(questions=Questions(tmp_path / "none"))
        )
    without_engines = ExportOptions(
        precision="fp16", engine="rtx", engines=False, questions=Questions(recordings)
    )
    with pytest.raises(ConfigError, match="a bundle for rtx without engines cannot be asked"):
        export_checkpoint(tied, tmp_path / "out", options=without_engines)
    assert [p.name for p in tmp_path.iterdir()] == ["test"]


def test_a_listener_that_is_not_installed_is_told_before_the_work(
    recordings, tied, tmp_path, monkeypatch
):
    monkeypatch.setattr(listener, "find_spec", lambda name: None)
    options = ExportOptions(questions=Questions(recordings))
    with pytest.raises(ConfigError, match="needs the package faster_whisper"):
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
