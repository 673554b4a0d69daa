"""The agreement program: exact options agree in full, and what is saved is counted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runtime.bundles import write_toy
from tests.runtime.toy import ToyModel, ToyRunner, toy_layout
from ttt_ref.command_line import run_app
from ttt_ref.config import GenerationConfig
from ttt_runtime.decode.approximations import EXACT, Approximations
from ttt_runtime.decode.engine import SpeechEngine
from ttt_runtime.profiler.agreement import (
    Answer,
    app,
    compare,
    measure_agreement,
    options_alone,
)
from ttt_runtime.profiler.stated import check_targets

LAYOUT = toy_layout()
CODE = LAYOUT.code_offset
CONFIG = GenerationConfig(
    max_gen_len=30, diffusion_steps=16, diffusion_gen_length=16, block_length=4
)


def test_an_option_alone_has_all_others_off() -> None:
    assert options_alone("end_slot") == Approximations(constrained_heads=False, end_slot=True)
    assert options_alone("constrained_heads") == Approximations()
    assert options_alone("constrained-heads=off") == EXACT


def test_shares_are_counted_position_by_position() -> None:
    exact = [Answer((1, CODE, CODE + 1), 10, 100), Answer((2, CODE), 10, 100)]
    other = [Answer((1, CODE, CODE), 6, 40), Answer((2, CODE), 6, 60)]
    found = compare("x", LAYOUT, exact, other)
    assert (found.equal_answers, found.equal_ids, found.equal_text) == (0.5, 0.8, 1.0)
    assert found.equal_speech == pytest.approx(2 / 3)
    assert (found.forwards_saved, found.rows_saved) == (pytest.approx(0.4), pytest.approx(0.5))
    longer = compare("x", LAYOUT, exact[:1], [Answer((1, CODE, CODE + 1, CODE), 10, 100)])
    assert longer.equal_ids == 0.75
    assert longer.forwards_saved == pytest.approx(1 / 3)  # more speech for the same forwards


def test_on_a_toy_model_exact_options_agree_and_others_save() -> None:
    runner = ToyRunner(ToyModel(LAYOUT, 5, taste=1.0))
    prompts = [[1, 2, CODE + i, 4, 8] for i in range(4)]
    items = ("constrained_heads=off", "threshold=1.0", "threshold=0.3")
    off, sure, threshold = measure_agreement(runner, LAYOUT, prompts, CONFIG, items)
    assert off.equal_answers == sure.equal_answers == 1.0
    assert off.forwards_saved == off.rows_saved == 0.0
    assert threshold.forwards_saved > 0


Run = Callable[..., tuple[object, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the program; return its exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["agreement", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            run_app(app)
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return call


def test_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    def from_bundle(cls, *_: object, **__: object):  # type: ignore[no-untyped-def]
        return cls(ToyRunner(ToyModel(LAYOUT, 1, taste=1.0)), LAYOUT)

    monkeypatch.setattr(SpeechEngine, "from_bundle", classmethod(from_bundle))
    bundle = write_toy(tmp_path / "toy", presets={"p": CONFIG}, tokenizer=None)

    code, out, _ = run(bundle, "--prompts", "2", "--fast", "threshold=1.0", "--max-tokens", "20")
    assert code == 0
    document = json.loads(out.splitlines()[-1])
    assert document["prompt_count"] == 2
    assert document["options"][0]["equal_answers"] == 1.0
    assert "| `threshold=1.0` | 100.0 % |" in out
    code, out, err = run(bundle, "--fast", "speedy")
    assert (code, out) == (2, "")
    assert "unknown fast option" in err
    assert err.count("\n") == 1


def test_what_could_not_be_written_is_told_before_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """The state was rewritten, after minutes, and then the table was found to have no marks."""
    monkeypatch.setattr(SpeechEngine, "from_bundle", None)  # nothing is loaded
    bundle = write_toy(tmp_path / "toy", presets={"p": CONFIG}, tokenizer=None)
    state, table = tmp_path / "state.json", tmp_path / "table.md"
    text, binary = tmp_path / "text", tmp_path / "binary"
    text.write_text("words")
    binary.write_bytes(b"\xff\xfe\0")
    missing = tmp_path / "none" / "file"
    for arguments, word in (
        (("--say", missing), "no such file"),
        (("--state", missing), "no such file"),
        (("--state", text / "file"), "text"),
        (("--state", tmp_path), "is a folder"),
        (("--state", text), "is not valid JSON"),
        (("--state", binary), "is not UTF-16"),
        (("--state", state, "--table", table), "no such file"),
        (("--state", state, "--table", text), "add both"),
        (("--state", state, "--table", binary), "is not UTF-16"),
    ):
        code, out, err = run(bundle, "--fast", "threshold=1.0", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert word in err
    assert not state.exists()
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(PermissionError):
        check_targets(state, [])
