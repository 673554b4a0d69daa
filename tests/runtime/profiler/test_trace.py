"""The trace has the structure that Perfetto's importer of Chrome's format asks for."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.profiler.conftest import Run
from tests.runtime.profiler.test_profile import SHORT
from ttt_ref.outputs import write_whole
from ttt_runtime.dialogue.timeline import PHASES
from ttt_runtime.profiler.trace import TRACKS

# Of each kind of event the fields that the format asks for.
FIELDS = {
    "X": {"name", "cat", "ph", "ts", "dur", "pid", "tid", "args"},
    "i": {"name", "cat", "ph", "ts", "pid", "tid", "s"},
    "M": {"name", "ph", "pid", "tid", "args"},
}


@pytest.fixture(params=[(), ("--overlap",)], ids=["in turn", "overlapped"])
def events(
    request: pytest.FixtureRequest, bundle: Path, run: Run, tmp_path: Path
) -> list[dict[str, Any]]:
    trace = tmp_path / "trace.json"
    code, _, err = run(bundle, *SHORT, "--trace", trace, *request.param)
    assert (code, err) == (0, "")
    document = json.loads(trace.read_text())
    assert document.keys() == {"traceEvents", "displayTimeUnit"}
    assert document["displayTimeUnit"] in ("ms", "ns")
    found: list[dict[str, Any]] = document["traceEvents"]
    return found


def test_every_event_has_the_fields_of_its_kind(events: list[dict[str, Any]]) -> None:
    for event in events:
        assert event.keys() == FIELDS[event["ph"]]
        assert isinstance(event["pid"], int)
        assert event["tid"] in TRACKS
        assert event.get("ts", 0) >= 0
        assert event.get("dur", 0) >= 0
        assert event.get("s", "t") in ("t", "p", "g")
    named = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert named == TRACKS
    turns = [e["name"] for e in events if e.get("cat") == "turn" and e["ph"] == "X"]
    assert turns == ["first turn", "warm-up 1", "turn 1", "turn 2"]
    assert {e["name"] for e in events if e.get("cat") == "ttt"} == set(PHASES)
    assert sum(e["name"] == "first audio" for e in events) == len(turns)


def test_slices_of_a_track_do_not_cross_and_lie_in_their_turn(
    events: list[dict[str, Any]],
) -> None:
    slices = [e for e in events if e["ph"] == "X"]
    for track in TRACKS:
        row = sorted((e for e in slices if e["tid"] == track), key=lambda e: e["ts"])
        assert row
        for one, two in pairwise(row):
            assert one["ts"] + one["dur"] <= two["ts"] + 0.01
    turns = [e for e in slices if e["tid"] == 0]
    for piece in (e for e in slices if e["tid"] != 0):
        assert any(
            t["ts"] - 0.01 <= piece["ts"]
            and piece["ts"] + piece["dur"] <= t["ts"] + t["dur"] + 0.01
            for t in turns
        )


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="none"):
        write_whole(tmp_path / "none" / "trace.json", b"x")
    target = tmp_path / "folder"
    target.mkdir()
    with pytest.raises(OSError, match="folder"):
        write_whole(target, b"x")
    assert list(tmp_path.iterdir()) == [target]
