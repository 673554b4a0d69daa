"""ttt-assistant live: what it shows and keeps, and one line for what is missing."""

from __future__ import annotations

import io
import json
import os
import sys

import numpy as np
import pytest
from rich.console import Console

from ttt_ref.errors import ConfigError
from ttt_runtime.cli.live_run import turn_settings
from ttt_runtime.cli.live_view import JsonView, TerminalView
from ttt_runtime.cli.turn_recorder import TurnRecorder
from ttt_runtime.dialogue.live_events import LiveEvent
from ttt_runtime.dialogue.live_turn import LiveTurn
from ttt_runtime.terminal.keys import Keys

TURN = {
    "turn": 1,
    "why": "complete",
    "timer_ms": 350.0,
    "visible_ms": 5.0,
    "card_ms": 20.0,
    "latency_ms": 375.0,
    "compute_ms": 60.0,
    "held_ms": 90.0,
}
EVENTS = [
    LiveEvent("state", 0.0, {"state": "speaking"}),
    LiveEvent("transcript", 1.0, {"turn": 1, "text": "good \x1b[31mmorning"}),
    LiveEvent("text", 1.1, {"turn": 1, "text": "good "}),
    LiveEvent("text", 1.2, {"turn": 1, "text": "day"}),
    LiveEvent("turn", 1.3, TURN),
    LiveEvent("finished", 2.0, {"turn": 1, "text": "good day"}),
]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_turn_is_shown_with_its_latency_and_cannot_steer_the_terminal(is_terminal):
    out = io.StringIO()
    console = Console(file=out, force_terminal=is_terminal, color_system=None, width=120)
    with TerminalView("just speak", console) as view:
        view.level(-20.0)
        for event in EVENTS:
            view.event(event)
    text = out.getvalue()
    assert "good day" in text
    assert "first sound 375 ms after you fell silent" in text
    assert "\x1b[31m" not in text


def test_an_interruption_shows_only_what_was_heard():
    out = io.StringIO()
    with TerminalView("", Console(file=out, width=120)) as view:
        for event in EVENTS[:5]:
            view.event(event)
        fields = {"turn": 1, "text": "good", "played_s": 0.5}
        view.event(LiveEvent("interrupted", 2.0, fields))
    assert "good … (interrupted after 0.5 s)" in out.getvalue()
    assert "good day" not in out.getvalue()


def test_json_is_one_object_a_line(capsys):
    with JsonView() as view:
        for event in EVENTS:
            view.event(event)
        view.level(-3.0)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == [event.kind for event in EVENTS]


def test_words_come_from_a_pipe_without_waiting(monkeypatch):
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as source:
        monkeypatch.setattr(sys, "stdin", source)
        with Keys() as keys:
            assert keys.read() == []
            os.write(write_end, b"down\nup\nqu")
            assert keys.read() == ["down", "up"]
            os.write(write_end, b"it\n")
            assert keys.read() == ["quit"]
            os.close(write_end)
            assert keys.read() == []
            assert keys.read() == []


def test_a_kept_turn_holds_what_was_asked_and_what_was_played(tmp_path):
    recorder = TurnRecorder(tmp_path / "turns", 16000)
    turn = LiveTurn(1, 0.0, 0.0, transcript="hello", text=" hi", played_s=0.5)
    turn.question = np.zeros(800, np.float32)
    turn.answer = [np.ones(16000, np.float32)]
    recorder.keep(turn)
    files = sorted(path.name.split("_", 1)[-1] for path in (tmp_path / "turns").iterdir())
    assert files == ["001.json", "001_answer.wav", "001_question.wav"]
    [record] = [json.loads(p.read_text()) for p in (tmp_path / "turns").glob("*.json")]
    assert (record["transcript"], record["played_s"]) == ("hello", 0.5)
    [sound] = (tmp_path / "turns").glob("*answer.wav")
    assert sound.stat().st_size == 44 + 2 * 8000
    with pytest.raises(ConfigError, match="is no folder"):
        TurnRecorder(sound, 16000)


def test_modes_and_silence_of_the_command_line():
    assert turn_settings("push_to_talk", 0.5).fixed_s == 0.5
    with pytest.raises(ConfigError, match="unknown mode"):
        turn_settings("shout", None)
