import numpy as np
import pytest

from ttt_runtime.audio.leading_silence import LeadingSilence
from ttt_runtime.audio.resampler import Resampler
from ttt_runtime.audio.sound_memory import SoundMemory


@pytest.mark.parametrize("size", [1, 7, 100, 4000])
def test_an_answers_leading_silence_is_dropped_whatever_the_pieces(size):
    rate = 1000
    audio = np.concatenate([np.full(255, 1e-4), np.full(100, 0.1), np.zeros(50), np.ones(5)])
    silence = LeadingSilence(rate)
    parts = [silence.push(audio[i : i + size].astype(np.float32)) for i in range(0, 410, size)]
    found = np.concatenate(parts)
    np.testing.assert_allclose(found, audio[245:].astype(np.float32))
    assert silence.dropped_s == pytest.approx(0.245)


def test_an_answer_that_stays_soft_is_let_through():
    silence = LeadingSilence(100)
    assert sum(len(silence.push(np.full(50, 1e-4, np.float32))) for _ in range(10)) > 300


def test_the_same_rate_passes_untouched():
    audio = np.arange(10, dtype=np.float32)
    resampler = Resampler(16000, 16000)
    assert resampler.push(audio) is audio
    assert len(resampler.finish()) == 0


@pytest.mark.parametrize("rates", [(16000, 48000), (22050, 16000), (44100, 16000)])
def test_pieces_resample_to_what_the_whole_does(rates):
    audio = np.sin(np.arange(8000) * 0.05).astype(np.float32)
    whole = Resampler(*rates)
    expected = np.concatenate([whole.push(audio), whole.finish()])
    pieces = Resampler(*rates)
    found = [pieces.push(audio[i : i + 333]) for i in range(0, 8000, 333)]
    np.testing.assert_allclose(np.concatenate([*found, pieces.finish()]), expected, atol=1e-5)
    assert len(expected) == pytest.approx(8000 * rates[1] / rates[0], abs=2)


def test_memory_gives_what_was_said_from_a_time_on():
    memory = SoundMemory(100, 2.0)
    for number in range(50):
        memory.push(np.full(10, number, np.float32))
    assert memory.seconds == 5.0
    np.testing.assert_array_equal(memory.since(4.85), [48.0] * 5 + [49.0] * 10)
    assert len(memory.since(5.0)) == 0
    assert 200 <= len(memory.since(0.0)) < 220  # older sound is forgotten
