"""The judge hears a sound once and remembers it over processes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from recipes.tiny import asr_judge
from recipes.tiny.asr_judge import AsrJudge, read_heard


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    heard: list[int] = []

    class Whisper:
        def transcribe(self, audio: Any, **_: Any) -> tuple[list[Any], None]:
            heard.append(len(audio))
            return [SimpleNamespace(text=f" It is {len(heard)} o'clock.")], None

    monkeypatch.setattr(asr_judge, "_whisper", lambda folder, threads: Whisper())
    monkeypatch.setattr(asr_judge, "whisper_folder", lambda folder: folder)
    return heard


def test_a_sound_is_heard_once(calls: list[int], tmp_path: Path) -> None:
    audio = np.linspace(-1, 1, 800, dtype=np.float32)
    first = AsrJudge(tmp_path).hear(audio)
    assert first == ["it", "is", "one", "o'clock"]
    again = AsrJudge(tmp_path)
    assert again.hear(audio) == first
    assert again.hear(audio[::-1]) == ["it", "is", "two", "o'clock"]
    assert len(calls) == 2


def test_a_line_cut_off_is_passed_over(calls: list[int], tmp_path: Path) -> None:
    kept = tmp_path / "heard.jsonl"
    kept.write_text('["a", "hello"]\n["b", "go\n5\n[{}, 1]\n["c", "yes"]\n')
    assert read_heard(kept) == {"a": "hello", "c": "yes"}
    assert calls == []
