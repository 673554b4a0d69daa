"""Speech at an even level, and nothing else louder than it is."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from ttt_runtime.audio.level_control import LevelControl
from ttt_runtime.audio.voice_activity import level_db

SPEECH, _ = soundfile.read("samples/question.wav", dtype="float32")
FRAMES = SPEECH[: len(SPEECH) // 512 * 512].reshape(-1, 512)


def controlled(control: LevelControl, gain_db: float, times: int = 3) -> np.ndarray:
    """The question several times; frames well below its loudest are pauses."""
    frames = FRAMES * 10 ** (gain_db / 20)
    loudest = max(level_db(frame) for frame in frames)
    out = []
    for _ in range(times):
        out = [control.push(f, 0.95 if level_db(f) > loudest - 20 else 0.05) for f in frames]
    return np.concatenate(out)


def speech_level(audio: np.ndarray) -> float:
    levels = [level_db(frame) for frame in audio.reshape(-1, 512)]
    return float(np.percentile(levels, 80))


@pytest.mark.parametrize("gain_db", [-35.0, -25.0, -15.0, 0.0, 10.0])
def test_soft_and_loud_voices_come_to_one_level(gain_db: float) -> None:
    plain = speech_level(SPEECH[: FRAMES.size]) + gain_db
    control = LevelControl(-26.0)
    got = speech_level(controlled(control, gain_db))
    wanted = min(max(-26.0, plain - 12.0), plain + 24.0)
    assert got == pytest.approx(wanted, abs=5.0)
    assert abs(got - wanted) <= abs(plain - wanted) + 1.0


def test_a_voice_at_the_right_level_is_left_alone() -> None:
    control = LevelControl(speech_level(SPEECH[: FRAMES.size]))
    np.testing.assert_allclose(controlled(control, 0.0), SPEECH[: FRAMES.size], atol=0.3)
    assert abs(control.gain_db) <= 4.0


def test_silence_and_noise_teach_nothing_and_none_means_never() -> None:
    control = LevelControl(-26.0)
    noise = np.random.default_rng(0).normal(0, 1e-3, (200, 512)).astype(np.float32)
    for frame in noise:
        assert control.push(frame, 0.1) is frame
    assert control.gain_db == 0.0
    off = LevelControl(None)
    frame = noise[0]
    assert off.push(frame, 0.99) is frame


def test_the_gain_moves_without_steps_and_never_beyond_full_scale() -> None:
    control = LevelControl(-26.0)
    tone = (0.01 * np.sin(np.arange(512 * 60) / 5)).astype(np.float32)
    out = np.concatenate([control.push(f, 0.9) for f in tone.reshape(-1, 512)])
    ratio = np.abs(out[np.abs(tone) > 5e-3] / tone[np.abs(tone) > 5e-3])
    assert np.abs(np.diff(20 * np.log10(ratio))).max() < 0.1
    loud = np.sign(tone) * np.float32(0.99)
    got = [np.abs(control.push(f, 0.9)).max() for f in loud.reshape(-1, 512)]
    assert max(got) <= 0.98 + 1e-6
    control.reset()
    assert control.gain_db == 0.0
