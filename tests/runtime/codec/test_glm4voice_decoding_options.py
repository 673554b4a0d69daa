"""Ways to decode faster: what the table compares is what it says, and the trace recorder works."""

from __future__ import annotations

import numpy as np
import pytest

from tests.runtime.codec.conftest import TinyGlm
from ttt_runtime.backends.ort.session import SessionSettings
from ttt_runtime.cli.assistant_run import SHIPPED
from ttt_runtime.codec.glm4voice import timing
from ttt_runtime.profiler.glm4voice import decoding_options as choices
from ttt_runtime.profiler.glm4voice.decoding_options import (
    Inputs,
    distance_rows,
    streamed_mel,
    time_rows,
)
from ttt_runtime.profiler.glm4voice.record_trace import record
from ttt_runtime.profiler.workload import ScriptedEngine, TurnShape


@pytest.fixture(scope="module")
def single(tiny_glm: TinyGlm):
    made = choices.open_single(tiny_glm.files / "graphs", SessionSettings("cpu", 1))
    assert made is not None
    return made


def test_one_batch_of_two_equals_two_calls(tiny_glm: TinyGlm, single) -> None:
    inputs = Inputs(tiny_glm.decoder, 20)
    batched = inputs.batched(tiny_glm.decoder)
    assert np.abs(batched - inputs.apart(single)).max() < 1e-5
    assert np.abs(batched - single.run(inputs.row)[0]).max() > 1e-2  # guidance does something


def test_the_stream_whose_mel_is_compared_is_the_stream(tiny_glm: TinyGlm) -> None:
    codes = np.random.default_rng(0).integers(0, 64, 45)
    mel = streamed_mel(tiny_glm.decoder, codes)
    assert mel.shape == (1, 80, timing.frames_before(45))
    # Where the first chunk ends without what it holds back, the stream is the whole of that chunk.
    first = tiny_glm.decoder.params.chunk_tokens(0)
    once = tiny_glm.decoder.with_options(plan_tokens=(first,), hold_frames=0)
    alone = streamed_mel(once, codes[:first])
    ready = timing.frames_before(first) - tiny_glm.decoder.params.hold_frames
    assert np.array_equal(mel[:, :, :ready], alone[:, :, :ready])


def test_rows_of_times_and_distances(tiny_glm: TinyGlm, single, monkeypatch) -> None:
    monkeypatch.setattr(choices, "WINDOWS", (0, 20))
    monkeypatch.setattr(choices, "STREAM_TOKENS", 30)
    same = {"same": tiny_glm.decoder}
    rows = time_rows(tiny_glm.decoder, single, same, 1)
    assert [row.option for row in rows] == ["window", "window", "guidance", "guidance", "precision"]
    assert all(row.evaluation_s is not None and row.evaluation_s > 0 for row in rows)
    monkeypatch.setattr(choices, "CHUNK_TOKENS", 3)
    far = distance_rows(tiny_glm.decoder, same)
    by_option = {row.option: row for row in far}
    assert by_option["precision"].mel_rms_db == 0.0
    assert {row.value for row in far if row.option == "window"} == {"0 tokens", "20 tokens"}
    assert all(row.mel_rms_db is not None and row.mel_rms_db > 0 for row in far[:5])
    assert "dB" in far[0].line()


def test_a_recorded_trace_has_every_code_in_order_of_time() -> None:
    engine = ScriptedEngine.from_bundle(SHIPPED, threads=1)
    assert isinstance(engine, ScriptedEngine)
    arrivals = record(engine, TurnShape(1.0, spans=2, text_tokens=3, blocks=2))
    times = [time for time, _ in arrivals]
    assert times == sorted(times)
    assert times[0] > 0
    block = arrivals[0][1]
    # The last position of a span is its end tag.
    assert [count for _, count in arrivals] == [block, block - 1] * 2
