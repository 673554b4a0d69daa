"""Augmentation: determined by its seed, aligned in time, at the stated levels."""

from __future__ import annotations

import numpy as np
import pytest

from recipes.tiny.augment import (
    AugmentConfig,
    NoisePools,
    add_noise,
    augment,
    change_speed,
    degrade,
    limit,
    noisy,
    room,
    speech_power,
)
from recipes.tiny.corpus import Audio


def tone(hz: float, seconds: float = 0.5, amplitude: float = 0.2) -> Audio:
    t = np.arange(int(16_000 * seconds)) / 16_000
    return (amplitude * np.sin(2 * np.pi * hz * t)).astype(np.float32)


@pytest.fixture(scope="module")
def pools() -> NoisePools:
    return NoisePools([tone(200), tone(330)], seconds=4.0)


def test_same_seed_same_audio(pools: NoisePools) -> None:
    a = augment(tone(300), np.random.default_rng(5), pools)
    b = augment(tone(300), np.random.default_rng(5), pools)
    c = augment(tone(300), np.random.default_rng(6), pools)
    assert a.dtype == np.float32
    np.testing.assert_array_equal(a, b)
    assert len(a) != len(c) or not np.array_equal(a, c)


def test_speed_moves_pitch_and_length() -> None:
    fast = change_speed(tone(1000), 1.25)
    assert len(fast) == 6400
    peak = np.abs(np.fft.rfft(fast)).argmax() * 16_000 / len(fast)
    assert peak == pytest.approx(1250, abs=5)


@pytest.mark.parametrize("samples", [0, 1, 3])
def test_very_short_audio_passes(pools: NoisePools, samples: int) -> None:
    out = degrade(np.zeros(samples, np.float32), np.random.default_rng(0), pools, AugmentConfig())
    assert len(out) == samples
    assert np.isfinite(out).all()


def test_direct_sound_of_every_room_comes_first() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        response = room(rng)
        assert np.abs(response).argmax() == 0
        assert response[0] == pytest.approx(1.0, abs=0.4)


@pytest.mark.parametrize("kind", ["white", "pink", "brown", "babble"])
def test_noise_has_the_asked_ratio(pools: NoisePools, kind: str) -> None:
    speech = tone(300, seconds=3.0)
    noise = pools.draw(kind, len(speech), np.random.default_rng(1))
    mixed = add_noise(speech, noise, 10.0)
    ratio_db = 10 * np.log10(speech_power(speech) / np.mean((mixed - speech) ** 2))
    assert ratio_db == pytest.approx(10.0, abs=1.0)


def test_evaluation_noise_is_a_function_of_its_seed(pools: NoisePools) -> None:
    a, b = (noisy(tone(300), "white", 10.0, pools, seed=s) for s in (1, 2))
    np.testing.assert_array_equal(a, noisy(tone(300), "white", 10.0, pools, seed=1))
    assert not np.array_equal(a, b)


def test_peaks_are_limited_and_quiet_audio_is_left_alone() -> None:
    assert np.abs(limit(tone(300, amplitude=3.0))).max() <= 0.99
    quiet = tone(300)
    assert limit(quiet) is quiet
