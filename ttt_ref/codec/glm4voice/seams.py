"""Measure whether chunk borders can be heard: streamed audio against offline audio.

Three figures for a place in the audio, each large where something breaks:

- click: the largest second difference near the place over the local level, which a jump in the
  waveform or its slope raises;
- energy jump: the level after the place against the level before it, in dB;
- spectral distance: rms difference of the log spectra of the two audios around the place, in dB.

A border is clean when its figures are those of any other place of the same audio.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NEAR_SAMPLES = 24  # 1 ms at 22.05 kHz
LEVEL_SAMPLES = 220  # 10 ms
SPECTRUM_SAMPLES = 512
FLOOR = 1e-7


def clicks(audio: Tensor, places: Tensor) -> Tensor:
    """Return the click figure of each place, [N]."""
    bend = (audio[2:] - 2 * audio[1:-1] + audio[:-2]).abs()
    out = []
    for place in places.tolist():
        near = bend[place - NEAR_SAMPLES : place + NEAR_SAMPLES]
        around = bend[place - LEVEL_SAMPLES : place + LEVEL_SAMPLES]
        out.append(near.max() / (around.square().mean().sqrt() + FLOOR))
    return torch.stack(out)


def energy_jumps(audio: Tensor, places: Tensor) -> Tensor:
    """Return the absolute change of level at each place in dB, [N]."""
    out = []
    for place in places.tolist():
        before = audio[place - LEVEL_SAMPLES : place].square().mean() + FLOOR**2
        after = audio[place : place + LEVEL_SAMPLES].square().mean() + FLOOR**2
        out.append((10 * torch.log10(after / before)).abs())
    return torch.stack(out)


def spectral_distances(a: Tensor, b: Tensor, places: Tensor) -> Tensor:
    """Return the log-spectral distance of two audios around each place in dB, [N]."""
    window = torch.hann_window(SPECTRUM_SAMPLES)
    half = SPECTRUM_SAMPLES // 2

    def log_spectrum(audio: Tensor, place: int) -> Tensor:
        part = audio[place - half : place + half] * window
        # Pooled to bands: single bins of noise-like sound differ by chance.
        power = torch.fft.rfft(part).abs().square()[1:].unflatten(0, (32, -1)).mean(1)
        return 10 * torch.log10(power + FLOOR**2)

    out = [
        (log_spectrum(a, place) - log_spectrum(b, place)).square().mean().sqrt()
        for place in places.tolist()
    ]
    return torch.stack(out)


@dataclass(frozen=True)
class Seams:
    """Figures at the borders of a stream and at all other places, each [N]."""

    border_click: Tensor
    other_click: Tensor
    border_jump_db: Tensor
    other_jump_db: Tensor
    border_distance_db: Tensor
    other_distance_db: Tensor

    def summary(self) -> dict[str, float]:
        """Return medians and maxima by name."""
        return {
            f"{name}_{how}": float(value.median() if how == "median" else value.max())
            for name, value in vars(self).items()
            for how in ("median", "max")
        }


def measure(streamed: Tensor, offline: Tensor, borders: list[int], others: list[int]) -> Seams:
    """Measure a stream [T] against offline audio [T].

    Args:
        streamed: audio of a stream.
        offline: the same sound made at once.
        borders: sample numbers at which pieces of the stream meet.
        others: places to compare with. A border lies at a fixed distance from a token's edge,
            where sound changes more than elsewhere; these should lie there too. Those near a
            border are left out.
    """
    edge = max(LEVEL_SAMPLES, SPECTRUM_SAMPLES) + NEAR_SAMPLES
    last = min(len(streamed), len(offline)) - edge
    inside = torch.tensor([place for place in borders if edge <= place <= last])
    grid = torch.tensor([place for place in others if edge <= place <= last])
    away = (grid[:, None] - inside[None, :]).abs().amin(1) > SPECTRUM_SAMPLES
    grid = grid[away]
    return Seams(
        clicks(streamed, inside),
        clicks(streamed, grid),
        energy_jumps(streamed, inside),
        energy_jumps(streamed, grid),
        spectral_distances(streamed, offline, inside),
        spectral_distances(streamed, offline, grid),
    )
