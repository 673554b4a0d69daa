import numpy as np
import pytest

from ttt_ref.errors import AudioError
from ttt_runtime.audio.playback import DUCKED, Playback

RATE = 1000


def ones(samples: int, value: float = 1.0) -> np.ndarray:
    return np.full(samples, value, np.float32)


def test_an_answer_is_held_until_its_release_and_counted_to_the_sample():
    playback = Playback(RATE)
    playback.append(1, ones(25))
    assert not playback.take(10).any()
    playback.release(1)
    assert playback.take(10).all()
    assert playback.played_samples(1) == 10
    playback.append(1, ones(5))
    playback.end(1)
    block = playback.take(40)
    assert block[:20].all()
    assert not block[20:].any()
    assert playback.played_samples(1) == 30
    assert playback.is_over(1)


def test_18_sound_keeps_its_order_and_comes_before_all_is_there():
    """open-webui#16644, #26322: sound only when complete, or pieces in the wrong order."""
    playback = Playback(RATE)
    playback.release(1)
    taken = []
    for value in range(1, 8):
        playback.append(1, ones(7, value / 10))
        taken.append(playback.take(5))
    taken.append(playback.take(20))
    sound = np.concatenate(taken)
    assert np.all(np.diff(sound[sound > 0]) >= 0)
    assert np.count_nonzero(sound) == 49
    assert not playback.is_over(1)  # nobody said that this was all


def test_ducking_is_a_ramp_and_so_is_its_end():
    playback = Playback(RATE)
    playback.append(1, ones(100))
    playback.release(1)
    playback.take(10)
    playback.duck()
    block = playback.take(20)
    assert np.all(np.diff(block) <= 1e-6)
    assert block[-1] == pytest.approx(DUCKED)
    playback.unduck()
    assert playback.take(20)[-1] == pytest.approx(1.0)


def test_what_is_stopped_fades_within_10_ms_and_is_gone():
    playback = Playback(RATE)
    playback.append(1, ones(500))
    playback.release(1)
    playback.take(100)
    playback.forget(1)
    count = playback.played_samples(1)
    block = playback.take(50)
    assert block[0] <= 1.0
    assert not block[10:].any()
    assert playback.played_samples(1) == count  # what was heard while it faded is not counted
    assert playback.playing is None


def test_the_next_answer_takes_the_place_of_the_one_before():
    playback = Playback(RATE)
    playback.append(1, ones(100))
    playback.release(1)
    playback.take(10)
    playback.append(2, ones(100, 0.5))
    playback.release(2)
    block = playback.take(60)
    assert block[50] == pytest.approx(0.5)
    assert playback.playing == 2


def test_a_gap_in_an_answer_is_counted_once_and_its_end_is_none():
    playback = Playback(RATE)
    playback.release(1)
    playback.take(10)  # nothing came yet: no gap
    playback.append(1, ones(10))
    playback.take(10)
    playback.take(10)
    playback.take(10)
    assert playback.underruns == 1
    playback.append(1, ones(5))
    playback.end(1)
    playback.take(10)
    playback.take(10)
    assert playback.underruns == 1


def test_an_answer_without_end_is_refused():
    playback = Playback(RATE, longest_s=1.0)
    playback.append(1, ones(900))
    with pytest.raises(AudioError, match="cut there"):
        playback.append(1, ones(200))


def test_counts_of_old_answers_are_forgotten():
    playback = Playback(RATE)
    for answer in range(100):
        playback.append(answer, ones(10))
        playback.release(answer)
        playback.take(10)
        playback.forget(answer)
    assert len(playback._played) < 30
