"""Pitch tracks of the teacher voice, computed once and cached on disk."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recipes.tiny.corpus import SAMPLE_RATE_HZ, Audio, Corpus

Track = npt.NDArray[np.float32]
HOP_S = 0.01


def track_pitch(audio: Audio, frames: int) -> Track:
    """f0 in Hz at the ENDS of ``frames`` 10 ms frames of [T], 0 where unvoiced (WORLD harvest)."""
    import pyworld

    wave = audio.astype(np.float64)
    f0, times = pyworld.harvest(
        wave, SAMPLE_RATE_HZ, f0_floor=70.0, f0_ceil=500.0, frame_period=1000.0 * HOP_S
    )
    f0 = pyworld.stonemask(wave, f0, times, SAMPLE_RATE_HZ)
    f0 = f0[1 : frames + 1]
    # Harvest also finds pitch in the faint noise between words: no voice without energy.
    hop = int(HOP_S * SAMPLE_RATE_HZ)
    padded = np.pad(wave, (hop, 2 * hop))
    energy = np.array([np.mean(padded[hop * i : hop * (i + 3)] ** 2) for i in range(len(f0))])
    f0 = np.where(energy > 1e-6, f0, 0.0)
    return np.pad(f0, (0, frames - len(f0))).astype(np.float32)


def fill_unvoiced(f0: Track, default_hz: float) -> Track:
    """Join the voiced stretches by straight lines in log frequency; [F] -> [F], all above 0."""
    voiced = np.flatnonzero(f0 > 0)
    if len(voiced) == 0:
        return np.full_like(f0, default_hz)
    joined = np.interp(np.arange(len(f0)), voiced, np.log(f0[voiced]))
    filled: Track = np.exp(joined).astype(np.float32)
    return filled


def cached_tracks(cache: Path, corpus: Corpus, pad: int, code_samples: int) -> dict[str, Track]:
    """Pitch of every utterance between ``pad`` samples of silence, at 100 Hz, by id.

    Read from and added to ``cache`` (.npz); written every few hundred utterances.
    """
    tracks: dict[str, Track] = {}
    if cache.exists():
        with np.load(cache) as stored:
            tracks = {name: stored[name] for name in stored.files}
    missing = [i for i, u in enumerate(corpus.utterances) if u.id not in tracks]
    for done, i in enumerate(missing, 1):
        audio = np.pad(corpus.audio(i), pad)
        codes = -(-len(audio) // code_samples)
        frames = codes * code_samples // int(HOP_S * SAMPLE_RATE_HZ)
        tracks[corpus.utterances[i].id] = track_pitch(audio, frames)
        if done % 200 == 0 or done == len(missing):
            temporary = cache.with_suffix(".tmp.npz")
            np.savez(temporary, **tracks)  # type: ignore[arg-type]
            os.replace(temporary, cache)
            print(f"pitch: {done}/{len(missing)}", flush=True)
    return tracks
