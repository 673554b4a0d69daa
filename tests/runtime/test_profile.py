"""ttt-profile: a scripted turn of known shape, and its report in all forms."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.bundles import write_toy
from tests.runtime.toy import ToyModel, ToyRunner, toy_layout
from tests.runtime.toy_assistant import FRAME_SAMPLES, RATE_HZ, ToneDecoder, ToneTokenizer
from ttt_ref.config import GenerationConfig
from ttt_ref.errors import ConfigError
from ttt_runtime.bundle_config import CodecEntry
from ttt_runtime.cli.entry import run_app
from ttt_runtime.cli.profile import app
from ttt_runtime.engine import SpeechEngine
from ttt_runtime.events import SpeechEvent, TextEvent
from ttt_runtime.profiler import measure as measuring
from ttt_runtime.profiler.measure import ProfileOptions, measure
from ttt_runtime.profiler.report import document, quantiles
from ttt_runtime.profiler.workload import ScriptedEngine, TurnShape, scripted_config
from ttt_runtime.timing import PHASES

LAYOUT = toy_layout()
CONFIG = GenerationConfig(
    max_gen_len=3, diffusion_steps=4, diffusion_gen_length=8, block_length=4, cfg_scale=0.5
)
SHAPE = TurnShape(question_seconds=1.0, spans=2, text_tokens=3, blocks=2)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def from_bundle(cls, *_: object, **__: object):  # type: ignore[no-untyped-def]
        return cls(ToyRunner(ToyModel(LAYOUT, 1), capacity=400), LAYOUT)

    monkeypatch.setattr(SpeechEngine, "from_bundle", classmethod(from_bundle))
    monkeypatch.setattr(measuring, "load_codec", lambda *_, **__: (ToneTokenizer(), ToneDecoder()))
    return write_toy(tmp_path / "toy", presets={"p": CONFIG}, codec=CodecEntry("builtin"))


@pytest.mark.parametrize("seed", range(4))
def test_the_script_is_said_whatever_the_weights(seed: int) -> None:
    engine = ScriptedEngine(ToyRunner(ToyModel(LAYOUT, seed)), LAYOUT)
    engine.shape = SHAPE
    events = list(engine.generate([1, 2], scripted_config(CONFIG, SHAPE)))
    text = [e.ids[0] for e in events if isinstance(e, TextEvent)]
    begin, quad = LAYOUT.begin_of_audio_id, LAYOUT.begin_of_quad_id
    assert text == [0, 0, 0, begin, 0, 0, 0, quad, LAYOUT.im_end_id]
    speech = [e for e in events if isinstance(e, SpeechEvent)]
    assert [(len(e.ids), e.ends_span) for e in speech] == [(4, False), (4, True)] * 2
    assert all(LAYOUT.is_code(i) for e in speech for i in e.ids[: 3 + (not e.ends_span)])


def test_phases_are_counted_and_timed(bundle: Path) -> None:
    profile = measure(ProfileOptions(bundle, repeats=3, shape=SHAPE))
    assert all(turn.timeline.underruns is not None for turn in profile.warm)
    doc = document(profile)
    counts = {phase: doc["phases_ms"][phase]["count"] for phase in PHASES}
    # 9 text choices: one by the prefill, one after each of two spans by a commit; two passes a
    # block; the decoder is asked once a block and once at the end.
    assert counts == {
        "encode": 1, "prefill": 1, "text": 6, "block": 8, "commit": 2, "decode": 5
    }  # fmt: skip
    assert sum(row["share"] for row in doc["phases_ms"].values()) == pytest.approx(1, abs=1e-3)
    assert doc["audio_seconds"] == pytest.approx(14 * FRAME_SAMPLES / RATE_HZ)
    assert 0 < doc["turn"]["ttfa_ms"]["p50"] < doc["turn"]["total_ms"]["p50"]
    for row in (*doc["phases_ms"].values(), *doc["turn"].values()):
        assert row["p50"] <= row["p90"] <= row["p99"]
    assert doc["repeats"] == 3
    assert doc["rss_peak_mib"] >= doc["rss_loaded_mib"] > 10
    assert doc["cold"]["total_ms"] > 0


def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["ttt-profile", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        run_app(app)
    captured = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, captured.out, captured.err


def test_forms(
    bundle: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    trace = tmp_path / "trace.json"
    short = ("-r", 2, "--spans", 1, "--question-seconds", 0.5)
    code, out, _ = run(capsys, monkeypatch, bundle, *short, "-o", "json", "--trace", trace)
    assert code == 0
    doc = json.loads(out.splitlines()[-1])
    assert doc["phases_ms"]["commit"]["count"] == 1
    events = json.loads(trace.read_text())["traceEvents"]
    assert [e["name"] for e in events if e.get("cat") == "turn"] == [
        "cold turn",
        "turn 1",
        "turn 2",
    ]
    assert {e["name"] for e in events if e.get("cat") == "ttt"} == set(PHASES)
    assert all(e["dur"] >= 0 for e in events if e["ph"] == "X")
    code, out, _ = run(capsys, monkeypatch, bundle, *short, "-o", "csv")
    rows = list(csv.DictReader(out.splitlines()))
    assert {"prefill_ms", "ttfa_ms", "rtf", "load_ms"} <= {row["figure"] for row in rows}
    code, out, _ = run(capsys, monkeypatch, bundle, *short)
    assert "| prefill | 1 |" in out
    assert "ttfa_ms" in out


def test_bundle_without_codec(bundle: Path, tmp_path: Path) -> None:
    bare = write_toy(tmp_path / "bare", presets={"p": CONFIG})
    doc = document(measure(ProfileOptions(bare, repeats=1, shape=SHAPE)))
    assert doc["phases_ms"]["encode"]["p50"] is None
    assert doc["audio_seconds"] == pytest.approx(14 / 12.5, abs=1e-3)
    assert doc["turn"]["ttfa_ms"]["p50"] > 0


def test_mistakes_are_one_line(
    bundle: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for arguments, word in (
        ((tmp_path / "missing",), "not there"),
        ((bundle, "-o", "xml"), "xml"),
        ((bundle, "-r", "0"), "repeats"),
        ((bundle, "--spans", "0"), "spans is 0"),
        ((bundle, "--question-seconds", "-1"), "-1"),
        ((bundle, "--exactness", "roughly"), "roughly"),
        ((bundle, "--fast", "early_end"), "needs --exactness fast"),
        ((bundle, "--exactness", "fast", "--fast", "speedy"), "unknown fast option 'speedy'"),
        ((bundle, "--preset", "loud"), "unknown preset 'loud'"),
        ((bundle, "-r", "1", "--trace", tmp_path / "none" / "t.json"), "t.json"),
    ):
        code, out, err = run(capsys, monkeypatch, *arguments)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert word in err


def test_quantiles() -> None:
    assert quantiles([]) == {"p50": None, "p90": None, "p99": None}
    got = quantiles(np.arange(101).tolist())
    assert got == {"p50": 50.0, "p90": 90.0, "p99": 99.0}
    with pytest.raises(ConfigError, match="blocks"):
        TurnShape(blocks=0)
