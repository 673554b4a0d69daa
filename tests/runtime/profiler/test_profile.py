"""ttt-profile: a scripted turn of known shape, and its report in all forms."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.bundles import write_toy
from tests.runtime.profiler.conftest import CONFIG, LAYOUT, SHIPPED, Run
from tests.runtime.toy import ToyModel, ToyRunner
from tests.runtime.toy_assistant import FRAME_SAMPLES, RATE_HZ
from tests.runtime.versions import needs_standard_onnxruntime
from ttt_ref.errors import ConfigError
from ttt_runtime.decode.approximations import Approximations
from ttt_runtime.decode.events import SpeechEvent, TextEvent
from ttt_runtime.dialogue.timeline import PHASES
from ttt_runtime.profiler.bench import Bench, ProfileOptions
from ttt_runtime.profiler.figures import quantiles
from ttt_runtime.profiler.measure import measure
from ttt_runtime.profiler.options_json import options_from_json, options_to_json
from ttt_runtime.profiler.report import document
from ttt_runtime.profiler.workload import ScriptedEngine, TurnShape, scripted_config
from ttt_runtime.terminal.progress import Progress

SHAPE = TurnShape(question_seconds=1.0, spans=2, text_tokens=3, blocks=2)
PLAIN = ("--cold-starts", 0, "--no-limits")
SHORT = ("-r", 2, "--spans", 1, "--question-seconds", 0.5, *PLAIN)


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


@pytest.mark.parametrize("overlap", [False, True])
def test_phases_are_counted_and_timed(bundle: Path, overlap: bool) -> None:
    profile = measure(ProfileOptions(bundle, repeats=3, shape=SHAPE, overlap=overlap, warm_up=2))
    assert all(turn.timeline.underruns is not None for turn in profile.warm)
    doc = document(profile)
    counts = {phase: doc["phases_ms"][phase]["count"] for phase in PHASES}
    # 9 text choices: one by the prefill, one after each of two spans by a commit; two passes a
    # block; the decoder is asked once a block and once at the end.
    assert counts == {
        "encode": 1, "prefill": 1, "text": 6, "block": 8, "commit": 2, "decode": 5
    }  # fmt: skip
    assert sum(row["share"] for row in doc["phases_ms"].values()) == pytest.approx(1, abs=1e-3)
    seconds = 14 * FRAME_SAMPLES / RATE_HZ
    assert doc["audio_seconds"] == pytest.approx(seconds)
    assert doc["turn"]["passes_a_second_of_audio"]["p50"] == pytest.approx(8 / seconds, abs=1e-3)
    forwards = doc["turn"]["forwards_a_second_of_audio"]["p50"]
    assert forwards == pytest.approx(17 / seconds, abs=1e-3)
    assert 0 < doc["turn"]["ttfa_ms"]["p50"] < doc["turn"]["total_ms"]["p50"]
    for row in (*doc["phases_ms"].values(), *doc["turn"].values()):
        assert row["p50"] <= row["p90"] <= row["p99"]
    assert doc["repeats"] == 3
    assert len(doc["warm_up_ms"]) == 2
    assert doc["rss_peak_mib"] >= doc["rss_loaded_mib"] > 10
    assert doc["cold"]["total_ms"] > 0
    assert doc["underruns"] == sum(turn.timeline.underruns or 0 for turn in profile.warm)


def test_every_form_ends_with_one_json_document(bundle: Path, run: Run) -> None:
    documents = []
    for form in ("md", "json", "csv"):
        code, out, _ = run(bundle, *SHORT, "-o", form)
        assert code == 0
        documents.append(json.loads(out.splitlines()[-1]))
        assert documents[-1]["phases_ms"]["commit"]["count"] == 1
        assert documents[-1].keys() == documents[0].keys()
        if form == "csv":
            rows = list(csv.DictReader(out.splitlines()[:-1]))
            figures = {row["figure"] for row in rows}
            assert {"prefill_ms", "ttfa_ms", "rtf", "load_ms", "underruns"} <= figures
        if form == "md":
            assert "| prefill | 1 |" in out
            assert "ttfa_ms" in out
            assert "underruns" in out
            assert "energy: this device does not tell" in out or "energy," in out


def test_bundle_without_codec(bundle: Path, tmp_path: Path) -> None:
    bare = write_toy(tmp_path / "bare", presets={"p": CONFIG})
    doc = document(measure(ProfileOptions(bare, repeats=1, shape=SHAPE)))
    assert doc["phases_ms"]["encode"]["p50"] is None
    assert doc["audio_seconds"] == pytest.approx(14 / 12.5, abs=1e-3)
    assert doc["turn"]["ttfa_ms"]["p50"] > 0


def test_steps_and_block_replace_the_presets(bundle: Path) -> None:
    bench = Bench(ProfileOptions(bundle, steps=3, block=5, shape=SHAPE))
    assert (bench.config.block_length, bench.config.steps_per_block()) == (5, 3)
    counts = [len(bench.turn().timeline.phase_ms(phase)) for phase in ("block", "commit")]
    assert counts == [3 * 4, 2]
    assert Bench(ProfileOptions(bundle, steps=99)).config.steps_per_block() == 4  # one a token
    with pytest.raises(ConfigError, match="block is 0"):
        Bench(ProfileOptions(bundle, block=0))


def test_options_survive_the_way_to_another_process(bundle: Path) -> None:
    fast = Approximations(guidance="constant", threshold=0.5)
    options = ProfileOptions(
        bundle.resolve(), 3, None, "cpu", "fast", 2, SHAPE, fast=fast, steps=2, overlap=True
    )
    assert options_from_json(options_to_json(options)) == options


def test_mistakes_are_one_line(bundle: Path, run: Run, tmp_path: Path) -> None:
    for arguments, word in (
        ((tmp_path / "missing",), "not there"),
        ((bundle, "-o", "xml"), "xml"),
        ((bundle, "-r", "0"), "repeats"),
        ((bundle, "--warm-up", "-1"), "warm_up is -1"),
        ((bundle, "--cold-starts", "-2"), "cold_starts is -2"),
        ((bundle, "--spans", "0"), "spans is 0"),
        ((bundle, "--question-seconds", "-1"), "-1"),
        ((bundle, "--question", tmp_path / "none.wav"), "none.wav"),
        ((bundle, "--exactness", "roughly"), "roughly"),
        ((bundle, "--fast", "end_slot"), "needs --exactness fast"),
        ((bundle, "--exactness", "fast", "--fast", "speedy"), "unknown fast option 'speedy'"),
        ((bundle, "--preset", "loud"), "unknown preset 'loud'"),
        ((bundle, "--threads", "two"), "--threads is 'two'"),
        ((bundle, "--threads", "1,0"), "--threads is '1,0'"),
        ((bundle, "--steps", "1,,2"), "--steps is '1,,2'"),
        ((bundle, "--device", "abacus"), "abacus"),
        ((bundle, "-r", "1", "--trace", tmp_path / "none" / "t.json"), "none"),
        ((bundle, "--b", "steps=2"), "--compare"),
        ((bundle, "--plot", tmp_path / "p.png"), "--plot does not go with"),
        ((bundle, "--max-regression", "0.1"), "needs --baseline"),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (2, ""), arguments
        assert err.count("\n") == 1, err
        assert word in err


def test_progress_is_told_while_one_piece_of_work_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ttt_runtime.terminal.progress._FIRST_SECONDS", 0.01)
    monkeypatch.setattr("ttt_runtime.terminal.progress._NEXT_SECONDS", 0.01)
    with Progress() as progress:
        progress("loading")
        err = ""
        while err.count("loading") < 2:
            err += capsys.readouterr().err
    assert "s] loading\n" in err


def test_quantiles() -> None:
    assert quantiles([]) == {"p50": None, "p90": None, "p99": None}
    got = quantiles(np.arange(101).tolist())
    assert got == {"p50": 50.0, "p90": 90.0, "p99": 99.0}
    with pytest.raises(ConfigError, match="blocks"):
        TurnShape(blocks=0)


@needs_standard_onnxruntime
def test_the_shipped_bundle_in_full() -> None:
    """Cold starts, limits and work on real graphs; in a process, since it shares a thread pool."""
    code = "import sys; from ttt_runtime.cli.profile import main; sys.argv = sys.argv[1:]; main()"
    command = [sys.executable, "-c", code, "ttt-profile", str(SHIPPED), "-r", "3"]
    done = subprocess.run(
        [*command, "--threads", "1", "--cold-starts", "1"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    doc = json.loads(done.stdout.splitlines()[-1])
    start = doc["cold_start"]
    assert start["ready_ms"] == pytest.approx(
        start["interpreter_ms"] + start["imports_ms"] + start["load_ms"], abs=0.01
    )
    assert start["first_audio_ms"] > start["ready_ms"] > start["load_ms"] > 0
    limits = doc["limits"]
    assert limits["threads"] == 1
    assert limits["weights_gbps"] >= limits["memory_gbps"] > 0.1
    assert min(limits["float_gops"], limits["int8_gops"]) > 0.1
    for phase in PHASES:
        row = doc["phases_ms"][phase]
        assert row["floor_ms"] > 0
        assert row["p50"] / row["floor_ms"] == pytest.approx(row["times_floor"], rel=0.02)
    assert "turn" in doc
    assert "of bandwidth" in done.stdout
