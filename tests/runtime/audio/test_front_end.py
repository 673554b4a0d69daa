from itertools import pairwise

import numpy as np
import pytest

from ttt_ref.errors import AudioError, ConfigError
from ttt_runtime.audio.echo import HalfDuplex, Untouched, WebRtcProcessor, echo_processor
from ttt_runtime.audio.echo_level import EchoLevel
from ttt_runtime.audio.front_end import FrontEnd
from ttt_runtime.audio.voice_activity import (
    FRAME_SAMPLES,
    EnergyDetector,
    SileroDetector,
    level_db,
    voice_detector,
)
from ttt_runtime.audio.voice_frame import SILENT_DB
from ttt_runtime.audio.wav_writer import pcm16


def pcm(audio: np.ndarray) -> np.ndarray:
    return np.frombuffer(pcm16(audio.astype(np.float32)), np.int16)


@pytest.fixture(scope="module")
def question() -> np.ndarray:
    import soundfile

    audio, rate_hz = soundfile.read("samples/question.wav", dtype="float32")
    assert rate_hz == 16000
    return np.concatenate([np.zeros(8000, np.float32), audio, np.zeros(8000, np.float32)])


@pytest.mark.parametrize("kind", ["silero", "energy"])
def test_a_detector_finds_speech_and_its_silence(kind, question):
    detector = voice_detector(kind)
    frames = [question[i : i + 512] for i in range(0, len(question) - 511, 512)]
    found = np.array([detector.probability(frame) for frame in frames])
    assert found[:12].max() < 0.5  # 0.4 s of silence
    assert found[25:60].mean() > 0.8
    assert found[-6:].max() < 0.35
    detector.reset()
    again = np.array([detector.probability(frame) for frame in frames])
    np.testing.assert_allclose(again, found, atol=1e-6)


def test_steady_noise_is_no_speech_to_either_detector():
    noise = np.random.default_rng(0).normal(0, 0.01, 16000 * 20).astype(np.float32)
    for detector in (SileroDetector(), EnergyDetector()):
        found = [detector.probability(noise[i : i + 512]) for i in range(0, len(noise) - 511, 512)]
        assert np.mean(np.array(found[-200:]) > 0.5) < 0.02


def test_a_detector_of_another_name_is_refused():
    with pytest.raises(ConfigError, match="silero or energy"):
        voice_detector("ears")
    with pytest.raises(ConfigError, match="half_duplex"):
        echo_processor("none")


@pytest.mark.parametrize("size", [1, 100, 160, 320, 512, 999, 5000])
def test_frames_do_not_depend_on_the_blocks_sizes(size, question):
    def frames(size: int) -> list:
        front_end = FrontEnd(Untouched(), EnergyDetector())
        sound = pcm(question)[:20000]
        return [
            frame
            for begin in range(0, len(sound), size)
            for frame in front_end.push(sound[begin : begin + size])
        ]

    whole, parts = frames(20000), frames(size)
    assert len(parts) == len(whole) == 20000 // 160 * 160 // FRAME_SAMPLES
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one.audio, other.audio)
        assert one.voice == other.voice
    assert whole[0].voice.end_s == pytest.approx(0.032)


def test_microphone_and_loudspeaker_must_be_of_the_same_moment():
    front_end = FrontEnd(Untouched(), EnergyDetector())
    with pytest.raises(AudioError, match="same moment"):
        front_end.push(np.zeros(160, np.int16), np.zeros(80, np.int16))


def test_half_duplex_is_deaf_while_something_plays_and_for_a_while_after():
    echo = HalfDuplex(after_s=0.05)
    mic, loud, quiet = (np.full(160, level, np.int16) for level in (1000, 5000, 0))
    assert echo.process(mic, quiet).any()
    assert not echo.process(mic, loud).any()
    heard = [bool(echo.process(mic, quiet).any()) for _ in range(8)]
    assert heard == [False] * 4 + [True] * 4
    echo.process(mic, loud)
    echo.reset()
    assert echo.process(mic, quiet).any()


def simulated_echo(played: np.ndarray, delay_s: float, gain_db: float) -> np.ndarray:
    """What of it comes back: late, softer, with the room's tail."""
    random = np.random.default_rng(1)
    tail = random.normal(0, 1, 3200) * np.exp(-np.arange(3200) / 500.0)
    tail[0] = 6.0
    back = np.convolve(played, tail)[: len(played)]
    back *= 10 ** (gain_db / 20) * np.abs(played).max() / np.abs(back).max()
    delay = round(delay_s * 16000)
    return np.concatenate([np.zeros(delay), back])[: len(played)].astype(np.float32)


def test_01_it_hears_itself(question):
    """hf/s2s#134, pipecat#188: its own answer comes back through the microphone as a question.

    With the loudspeaker's true signal beside it, what is left of the echo is 20 dB softer, and no
    frame of the last seconds is as loud as the echo to be expected.
    """
    pytest.importorskip("pywebrtc_audio")
    played = np.tile(question, 5)
    mic = simulated_echo(played, 0.12, -6.0)
    mic += np.random.default_rng(2).normal(0, 3e-4, len(mic)).astype(np.float32)
    front_end = FrontEnd(WebRtcProcessor(), SileroDetector())
    frames = front_end.push(pcm(mic), pcm(played))
    late = frames[len(frames) * 3 // 5 :]
    left = level_db(np.concatenate([frame.audio for frame in late]))
    assert left < level_db(mic[len(mic) * 3 // 5 :]) - 20
    taken = [
        f for f in late if f.voice.probability >= 0.6 and f.voice.level_db > f.voice.echo_db + 3
    ]
    assert not any(
        b.end_s - a.end_s < 0.04 for a, b in pairwise(taken)
    )  # never two in a row: an interruption takes four


def test_03_cancellation_is_lost_when_a_stream_begins_anew(question):
    """jitsi/jitsi-meet#4208: after a reset the canceller learns the room again, as at first."""
    pytest.importorskip("pywebrtc_audio")
    played = pcm(np.tile(question, 2))
    mic = pcm(simulated_echo(np.tile(question, 2), 0.1, -6.0))
    front_end = FrontEnd(WebRtcProcessor(), EnergyDetector())
    first = np.concatenate([f.audio for f in front_end.push(mic, played)])
    seconds = front_end.seconds
    front_end.reset()
    second = np.concatenate([f.audio for f in front_end.push(mic, played)])
    assert front_end.seconds == pytest.approx(2 * seconds, abs=0.07)  # time goes on
    half = len(first) // 2
    assert level_db(second[half:]) < level_db(first[half:]) + 3


def test_the_expected_echo_follows_what_is_left_of_it():
    follow = EchoLevel()
    assert follow.push(-60.0, -90.0) == SILENT_DB
    for _ in range(400):
        expected = follow.push(-45.0, -20.0)
    assert expected == pytest.approx(-45.0, abs=1.0)
    for _ in range(30):  # one second of a loud user lifts it by 2 dB
        expected = follow.push(-15.0, -20.0)
    assert expected < -42.0
    follow.reset()
    assert follow.push(-80.0, -90.0) == SILENT_DB


def test_without_its_package_echo_cancellation_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pywebrtc_audio", None)
    with pytest.raises(AudioError, match=r"pip install .*\[live\]"):
        WebRtcProcessor()


def test_detectors_share_the_graph_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each conversation of the server loaded the graph anew, and memory grew with every one."""
    ort = pytest.importorskip("onnxruntime")
    one, other = SileroDetector(), SileroDetector()
    tone = np.sin(np.arange(16 * 512) / 9).astype(np.float32).reshape(16, 512)
    noise = np.random.default_rng(0).normal(0, 0.1, (16, 512)).astype(np.float32)
    alone = [SileroDetector() for _ in range(2)]
    expected = [
        [d.probability(f) for f in sound] for d, sound in zip(alone, (tone, noise), strict=True)
    ]
    turns = [(one.probability(a), other.probability(b)) for a, b in zip(tone, noise, strict=True)]
    assert [list(values) for values in zip(*turns, strict=True)] == expected

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("the graph was loaded again")

    monkeypatch.setattr(ort, "InferenceSession", refuse)
    SileroDetector()
