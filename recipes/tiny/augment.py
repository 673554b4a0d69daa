"""Augmentation of speech: speed, room, noise, level and timbre, fast on a CPU and seeded.

Everything takes an explicit ``numpy.random.Generator``; the same generator state gives the same
audio. Noise comes from pools made once (:class:`NoisePools`), rooms are synthetic impulse
responses whose direct sound stands at sample 0, so that clean and augmented audio stay aligned.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import fft as sfft

Audio = npt.NDArray[np.float32]
SAMPLE_RATE_HZ = 16_000


@dataclass(frozen=True)
class AugmentConfig:
    """Probabilities and ranges. The defaults are the tokenizer's training conditions."""

    speed_range: float = 0.2
    lead_silence_s: float = 0.3
    reverb_share: float = 0.35
    noise_share: float = 0.75
    noise_low_db: float = 3.0
    noise_high_db: float = 35.0
    eq_share: float = 0.5
    eq_range_db: float = 9.0
    gain_low_db: float = -20.0
    gain_high_db: float = 6.0


MILD = AugmentConfig(
    reverb_share=0.1,
    noise_share=0.4,
    noise_low_db=15.0,
    noise_high_db=45.0,
    eq_share=0.3,
    eq_range_db=5.0,
    gain_low_db=-10.0,
    gain_high_db=3.0,
)


def change_speed(audio: Audio, factor: float) -> Audio:
    """Play [T] ``factor`` times as fast: pitch, formants and tempo move together.

    Cubic (Catmull-Rom) interpolation at the new sampling points; [T / factor].
    """
    if factor == 1.0 or len(audio) < 4:
        return audio
    count = max(1, int(len(audio) / factor))
    position = np.arange(count, dtype=np.float64) * factor
    index = position.astype(np.int64)
    t = (position - index).astype(np.float32)
    x = np.concatenate([audio[:1], audio, audio[-1:], audio[-1:]])
    p0, p1, p2, p3 = x[index], x[index + 1], x[index + 2], x[index + 3]
    a = 0.5 * (3.0 * (p1 - p2) + p3 - p0)
    b = p0 - 2.5 * p1 + 2.0 * p2 - 0.5 * p3
    c = 0.5 * (p2 - p0)
    cubic: Audio = (((a * t + b) * t + c) * t + p1).astype(np.float32)
    return cubic


def pad_silence(audio: Audio, left: int, right: int) -> Audio:
    """Digital silence around [T], in samples."""
    return np.concatenate(
        [np.zeros(left, np.float32), audio.astype(np.float32), np.zeros(right, np.float32)]
    )


@lru_cache(maxsize=4)
def _room_bank(count: int, seed: int) -> list[Audio]:
    rng = np.random.default_rng(seed)
    rooms = []
    for _ in range(count):
        rt60_s = rng.uniform(0.1, 0.6)
        length = int(min(0.4, rt60_s) * SAMPLE_RATE_HZ)
        decay = np.exp(-6.9 * np.arange(length) / (rt60_s * SAMPLE_RATE_HZ))
        tail = rng.standard_normal(length) * decay
        tail[: int(rng.uniform(0.001, 0.008) * SAMPLE_RATE_HZ)] = 0.0
        # Higher frequencies die sooner in a real room: a one-pole low pass over the tail.
        tail = np.convolve(tail, 0.6 ** np.arange(8), mode="full")[:length]
        direct_to_tail_db = rng.uniform(0.0, 15.0)
        tail *= 10 ** (-direct_to_tail_db / 20) / np.sqrt(np.sum(tail**2) + 1e-12)
        tail[0] += 1.0
        rooms.append(tail.astype(np.float32))
    return rooms


def room(rng: np.random.Generator) -> Audio:
    """One of 128 impulse responses, the direct sound at sample 0 with the gain 1."""
    rooms = _room_bank(128, 7)
    return rooms[int(rng.integers(len(rooms)))]


def equaliser(bins: int, rng: np.random.Generator, range_db: float) -> Audio:
    """Smooth random gain over frequency [bins]: a few points joined on a log axis, plus a tilt."""
    points = np.linspace(0.0, 1.0, 7)
    gains_db = rng.uniform(-range_db, range_db, 7) * 0.5
    gains_db += np.linspace(-0.5, 0.5, 7) * rng.uniform(-range_db, range_db)
    hz = np.linspace(0.0, SAMPLE_RATE_HZ / 2, bins)
    axis = np.log2(1.0 + hz / 250.0) / np.log2(1.0 + SAMPLE_RATE_HZ / 2 / 250.0)
    gains: Audio = (10 ** (np.interp(axis, points, gains_db) / 20)).astype(np.float32)
    return gains


def room_and_eq(audio: Audio, rng: np.random.Generator, config: AugmentConfig) -> Audio:
    """Reverberation and equaliser in one multiplication in the frequency domain; same length."""
    use_room = rng.random() < config.reverb_share
    use_eq = rng.random() < config.eq_share
    if not (use_room or use_eq) or len(audio) == 0:
        return audio
    response = room(rng) if use_room else np.zeros(0, np.float32)
    size = sfft.next_fast_len(len(audio) + len(response), real=True)
    spectrum = sfft.rfft(audio, size)
    if use_room:
        spectrum *= sfft.rfft(response, size)
    if use_eq:
        spectrum *= equaliser(len(spectrum), rng, config.eq_range_db)
    out: Audio = sfft.irfft(spectrum, size)[: len(audio)].astype(np.float32)
    return out


class NoisePools:
    """White, pink, brown-ish and babble noise of unit power, each a long loop.

    ``voices``: utterances for the babble (six talkers at once); none leaves babble out.
    """

    def __init__(self, voices: list[Audio] | None = None, seconds: float = 60.0, seed: int = 11):
        rng = np.random.default_rng(seed)
        count = int(seconds * SAMPLE_RATE_HZ)
        white = rng.standard_normal(count).astype(np.float32)
        spectrum = sfft.rfft(white)
        slope = np.maximum(np.arange(len(spectrum)), 20.0 * seconds)
        pink = sfft.irfft(spectrum / np.sqrt(slope), count)
        brown = sfft.irfft(spectrum / slope, count)
        self.pools = {"white": white, "pink": pink, "brown": brown}
        if voices:
            babble = np.zeros(count, np.float32)
            for _ in range(6):
                position = 0
                while position < count:
                    voice = voices[int(rng.integers(len(voices)))]
                    level = np.sqrt(np.mean(voice**2)) + 1e-6
                    part = voice[: count - position] / level
                    babble[position : position + len(part)] += part
                    position += len(voice) + int(rng.integers(1_600, 8_000))
            self.pools["babble"] = babble
        for name, pool in self.pools.items():
            self.pools[name] = (pool / np.sqrt(np.mean(pool**2))).astype(np.float32)

    def draw(self, kind: str, count: int, rng: np.random.Generator) -> Audio:
        """``count`` samples of a noise of (about) unit power from a random place of the loop."""
        pool = self.pools[kind]
        start = int(rng.integers(len(pool)))
        return np.take(pool, np.arange(start, start + count), mode="wrap")

    def any_kind(self, rng: np.random.Generator) -> str:
        """A kind of noise by chance."""
        kinds = sorted(self.pools)
        return kinds[int(rng.integers(len(kinds)))]


def speech_power(audio: Audio) -> float:
    """Mean power of the louder half of 20 ms frames: silence around speech does not count."""
    frames = audio[: len(audio) // 320 * 320].reshape(-1, 320)
    if len(frames) == 0:
        return float(np.mean(audio**2)) if len(audio) else 0.0
    power = np.sort(np.mean(frames**2, axis=1))
    return float(power[len(power) // 2 :].mean())


def add_noise(audio: Audio, noise: Audio, snr_db: float) -> Audio:
    """Add unit-power noise [T] at a signal-to-noise ratio against the speech's active power."""
    scale = np.sqrt(speech_power(audio) * 10 ** (-snr_db / 10))
    mixed: Audio = (audio + scale * noise).astype(np.float32)
    return mixed


def noisy(audio: Audio, kind: str, snr_db: float, pools: NoisePools, seed: int) -> Audio:
    """Evaluation noise: [T] with one kind of noise at one ratio, a pure function of the seed."""
    rng = np.random.default_rng(seed)
    return limit(add_noise(audio, pools.draw(kind, len(audio), rng), snr_db))


def limit(audio: Audio) -> Audio:
    """Scale down if a peak lies above full scale."""
    peak = float(np.abs(audio).max()) if len(audio) else 0.0
    return (audio * (0.99 / peak)).astype(np.float32) if peak > 0.99 else audio


def degrade(
    audio: Audio, rng: np.random.Generator, pools: NoisePools, config: AugmentConfig
) -> Audio:
    """Room, equaliser, noise and gain; the length and the timing of [T] stay as they are."""
    out = room_and_eq(audio, rng, config)
    if rng.random() < config.noise_share:
        snr_db = rng.uniform(config.noise_low_db, config.noise_high_db)
        out = add_noise(out, pools.draw(pools.any_kind(rng), len(out), rng), snr_db)
    gain_db = rng.uniform(config.gain_low_db, config.gain_high_db)
    return limit(out * np.float32(10 ** (gain_db / 20)))


def augment(
    audio: Audio,
    rng: np.random.Generator,
    pools: NoisePools,
    config: AugmentConfig = AugmentConfig(),
) -> Audio:
    """The whole chain for one utterance: speed, silence around it, then :func:`degrade`."""
    audio = change_speed(audio, float(np.exp(rng.uniform(-1, 1) * config.speed_range)))
    pads = (rng.random(2) * config.lead_silence_s * SAMPLE_RATE_HZ).astype(int)
    return degrade(pad_silence(audio, int(pads[0]), int(pads[1])), rng, pools, config)
