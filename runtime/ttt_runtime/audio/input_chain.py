"""What a recording goes through before the speech tokenizer hears it.

    offset -> voice activity, trim -> too short? -> length -> level -> band

Each stage is one that the bundle asks for (`input_settings`). What changes what is heard is
reported as a note. The choice of a channel stands before it, in `channels`. Reasons:
docs/audio_input.md.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final

import numpy as np
import soxr
from numpy.typing import NDArray

from ttt_ref.errors import AudioError
from ttt_runtime.audio.input_settings import InputSettings
from ttt_runtime.audio.reader import Audio, is_silent
from ttt_runtime.audio.voice_activity import (
    FRAME_SAMPLES,
    RATE_HZ,
    EnergyDetector,
    SileroDetector,
    VoiceDetector,
)

SPEECH_PROBABILITY: Final = 0.5
NO_SPEECH_PROBABILITY: Final = 0.3  # if no frame reaches this, nobody spoke
KEPT_S: Final = 0.25  # around the speech: soft beginnings and ends
LEAST_CUT_S: Final = 0.5  # silence shorter than this, beyond what is kept, is left alone
PART_PAUSE_S: Final = 0.7  # silence that parts two questions
PLAIN_S: Final = 6.0  # a recording up to here, without pauses, is taken as it is
_PAUSE_BELOW_DB: Final = 30.0  # below the loudest speech: a pause
_UNEVEN_DB: Final = 10.0  # between loud and soft moments of speech, at the least
_VOICE_LEVEL_DB: Final = -20.0  # what the detector hears: its judgement depends on the level
_LOUDEST_GAIN: Final = 300.0  # +50 dB: below that there is nothing but the recorder's own noise
_FULL_BAND_HZ: Final = 6000.0  # with sound up to here nothing is missing
_EDGE_DB: Final = -55.0  # below the loudest band: no more sound, only what a filter leaves
_NOISE_BELOW_SPEECH_DB: Final = -24.0
_NOISE_SEED: Final = 20_512


@dataclass(frozen=True)
class Prepared:
    """Audio float32 [T] as the tokenizer hears it (none: nothing was said), and what to tell."""

    audio: Audio
    notes: tuple[str, ...] = ()


class InputChain:
    """Prepares recordings of one rate; threads may share it.

    Args:
        settings: which stages run.
        rate_hz: of the audio.
        longest_s: most seconds that the model hears; `settings.longest_s` counts if it is less.
        detector: judges 16 kHz frames; None takes Silero's network, loaded when first needed.
    """

    def __init__(
        self,
        settings: InputSettings,
        rate_hz: int,
        *,
        longest_s: float | None = None,
        detector: VoiceDetector | None = None,
    ) -> None:
        self.settings = settings
        self.rate_hz = rate_hz
        limits = [s for s in (settings.longest_s, longest_s) if s is not None]
        self.longest_s = min(limits) if limits else None
        self._detector = detector
        self._lock = threading.Lock()  # the detector has a state

    def prepare(self, audio: Audio) -> Prepared:
        """Return audio float32 [T] as it is to be heard.

        Raises:
            AudioError: more speech than the model hears at once.
        """
        settings = self.settings
        if is_silent(audio):
            return Prepared(np.zeros(0, np.float32))
        notes: list[str] = []
        if settings.level_db is not None:
            # A microphone's constant offset is no sound; the median ignores what swings around it.
            audio = audio - np.float32(np.median(audio))
        if settings.trim:
            audio, told = self._trimmed(audio)
            notes += told
        if len(audio) < settings.shortest_s * self.rate_hz:
            return Prepared(np.zeros(0, np.float32), tuple(notes))
        self._check_length(len(audio) / self.rate_hz)
        if settings.level_db is not None:
            audio = at_level(audio, settings.level_db)
        if settings.fill_band and (edge_hz := highest_hz(audio, self.rate_hz)) < _FULL_BAND_HZ:
            audio = _with_soft_noise(audio)
            notes.append(
                f"no sound above {edge_hz / 1000:.1f} kHz (a telephone or strong compression): "
                "words may be misheard"
            )
        return Prepared(audio, tuple(notes))

    def _check_length(self, seconds: float) -> None:
        if self.longest_s is not None and seconds > self.longest_s:
            raise AudioError(
                f"the recording has {seconds:.0f} s of speech; this model hears at most "
                f"{self.longest_s:.0f} s at once, ask in parts"
            )

    def _trimmed(self, audio: Audio) -> tuple[Audio, list[str]]:
        """Return the first stretch of speech with a little around it, and notes."""
        rate = self.rate_hz
        if _sounding_s(audio, rate) <= self.settings.shortest_s:
            return audio[:0], []  # a click
        if _is_plain(audio, rate):
            return audio, []
        parts = self._speech(audio)
        if not parts:
            return audio[:0], []
        kept, least = round(KEPT_S * rate), round((KEPT_S + LEAST_CUT_S) * rate)
        begin, end = parts[0]
        begin = begin - kept if begin > least else 0
        whole_end = parts[-1][1]
        notes = []
        if len(parts) > 1:
            notes.append(
                f"{len(parts)} utterances in the recording; taken is the first "
                f"({max(begin, 0) / rate:.1f} .. {end / rate:.1f} s of {len(audio) / rate:.1f} s)"
            )
            end = min(end + kept, parts[1][0])
        else:
            end = end + kept if len(audio) - whole_end > least else len(audio)
        return audio[max(begin, 0) : end], notes

    def _speech(self, audio: Audio) -> list[tuple[int, int]]:
        """Return the stretches of speech, in samples, parted by pauses."""
        heard = at_level(audio, _VOICE_LEVEL_DB).clip(-1, 1)
        if self.rate_hz != RATE_HZ:
            heard = np.asarray(soxr.resample(heard, self.rate_hz, RATE_HZ), np.float32)
        probabilities = self._probabilities(heard)
        if not len(probabilities) or probabilities.max() < NO_SPEECH_PROBABILITY:
            return []
        threshold = min(SPEECH_PROBABILITY, float(probabilities.max()))
        frames = np.flatnonzero(probabilities >= threshold)
        pause = PART_PAUSE_S * RATE_HZ / FRAME_SAMPLES
        runs = np.split(frames, np.flatnonzero(np.diff(frames) > pause) + 1)
        # A single frame is a cough or a knock, unless there is nothing else.
        long = [run for run in runs if len(run) > 2] or runs
        scale = FRAME_SAMPLES * self.rate_hz / RATE_HZ
        return [(round(run[0] * scale), round((run[-1] + 1) * scale)) for run in long]

    def _probabilities(self, audio: Audio) -> NDArray[np.float64]:
        frames = -(-len(audio) // FRAME_SAMPLES)
        padded = np.pad(audio, (0, frames * FRAME_SAMPLES - len(audio)))
        rows = padded.reshape(frames, FRAME_SAMPLES)
        with self._lock:
            detector = self._detector = self._detector or _best_detector()
            detector.reset()
            return np.array([detector.probability(row) for row in rows], np.float64)


def _best_detector() -> VoiceDetector:
    try:
        return SileroDetector()
    except AudioError:  # a machine with engines of its own may have no onnxruntime
        return EnergyDetector()


def speech_level_db(audio: Audio, rate_hz: int = RATE_HZ) -> float:
    """Return the level in dB of full scale of the louder half of 20 ms frames of audio [T]."""
    frame = max(rate_hz // 50, 1)
    whole = audio[: len(audio) // frame * frame] if len(audio) >= frame else audio
    rows = whole.reshape(-1, frame) if len(whole) >= frame else whole.reshape(1, -1)
    power = np.sort(np.square(rows, dtype=np.float64).mean(axis=1))
    return 10.0 * float(np.log10(power[len(power) // 2 :].mean() + 1e-12))


def at_level(audio: Audio, level_db: float) -> Audio:
    """Return audio [T] with its speech at a level in dB of full scale."""
    gain = min(10.0 ** ((level_db - speech_level_db(audio)) / 20.0), _LOUDEST_GAIN)
    return audio * np.float32(gain)


def highest_hz(audio: Audio, rate_hz: int) -> float:
    """Return the frequency above which audio [T] holds next to nothing."""
    size = 512
    padded = np.pad(audio, (0, size))
    window = np.hanning(size).astype(np.float32)
    rows = np.lib.stride_tricks.sliding_window_view(padded, size)[:: size // 2] * window
    power = np.square(np.abs(np.fft.rfft(rows, axis=1))).mean(axis=0)
    level = 10.0 * np.log10(power + 1e-14)
    sounding = np.flatnonzero(level > level[3:].max() + _EDGE_DB)
    return float(sounding[-1] + 1) * rate_hz / size


def _with_soft_noise(audio: Audio) -> Audio:
    """Put white noise under speech [T]: empty bands are a thing the codec never heard.

    The same audio always gets the same noise.
    """
    level_db = speech_level_db(audio) + _NOISE_BELOW_SPEECH_DB
    noise = np.random.default_rng(_NOISE_SEED).standard_normal(len(audio), dtype=np.float32)
    return audio + noise * np.float32(10.0 ** (level_db / 20.0))


def _is_plain(audio: Audio, rate_hz: int) -> bool:
    """Tell whether audio [T] is plainly speech from end to end: no use in asking the detector.

    It is if it is short, has no long pause anywhere, and is uneven, as no steady noise is. The
    detector takes as long as the tokenizer, so ordinary questions go without.
    """
    frame = max(rate_hz // 50, 1)
    if not frame <= len(audio) <= PLAIN_S * rate_hz:
        return False
    rows = audio[: len(audio) // frame * frame].reshape(-1, frame)
    level = 10.0 * np.log10(np.square(rows, dtype=np.float64).mean(axis=1) + 1e-12)
    loud, soft = np.percentile(level, (95, 20))
    speech = np.flatnonzero(level > loud - _PAUSE_BELOW_DB)
    pauses = np.diff(np.concatenate([[-1], speech, [len(level)]])) - 1
    return bool(loud - soft > _UNEVEN_DB and pauses.max() * frame < PART_PAUSE_S * rate_hz)


def _sounding_s(audio: Audio, rate_hz: int) -> float:
    """Return how many seconds of audio [T] are within 35 dB of its loudest 5 ms."""
    frame = max(rate_hz // 200, 1)
    if len(audio) < frame:
        return len(audio) / rate_hz
    rows = audio[: len(audio) // frame * frame].reshape(-1, frame)
    power = np.square(rows, dtype=np.float64).mean(axis=1)
    # Sound that fills n frames touches n + 1.
    return float((power > power.max() * 10**-3.5).sum() - 1) * frame / rate_hz
