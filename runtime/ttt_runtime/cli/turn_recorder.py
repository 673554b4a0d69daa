"""Keep the turns of a live conversation in a folder, for a report of what went wrong."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np

from ttt_ref.errors import ConfigError
from ttt_ref.outputs import write_whole
from ttt_runtime.audio.wav_writer import StreamingWavWriter
from ttt_runtime.dialogue.live_turn import LiveTurn


class TurnRecorder:
    """Writes `NNN_question.wav`, `NNN_answer.wav` (what was played) and `NNN.json` a turn."""

    def __init__(self, folder: Path, rate_hz: int) -> None:
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder} is no folder; give one to keep the turns in")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._rate_hz = rate_hz
        self._stem = time.strftime("%Y%m%d-%H%M%S")
        self._turns = 0

    def keep(self, turn: LiveTurn) -> None:
        """Write a finished turn."""
        self._turns += 1
        path = self._folder / f"{self._stem}_{self._turns:03}"
        if turn.question is not None:
            with StreamingWavWriter(f"{path}_question.wav", self._rate_hz) as writer:
                writer.write(turn.question)
        if turn.answer:
            played = np.concatenate(turn.answer)[: round(turn.played_s * self._rate_hz)]
            with StreamingWavWriter(f"{path}_answer.wav", self._rate_hz) as writer:
                writer.write(played)
        record = {
            "transcript": turn.transcript,
            "text": turn.text.strip(),
            "ended_by": turn.why,
            "timer_s": round(turn.timer_s, 3),
            "played_s": round(turn.played_s, 3),
            "encode_ms": turn.encode_ms,
            "timeline": turn.timeline,
        }
        write_whole(path.with_suffix(".json"), json.dumps(record, indent=2) + "\n")

    def summary(self) -> str:
        """Say what was kept and where."""
        return f"{self._turns} turns kept in {self._folder}"
