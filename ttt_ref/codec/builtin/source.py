"""The decoder's sound side: a pulse and a noise source, filtered frame by frame, overlap-added.

Frame ``i`` stands for the samples ``i * hop .. (i + 1) * hop``; its pitch is the pitch at the END
of them, samples between are ramped, so that the source needs no look-ahead. Its analysis window
covers ``i * hop - lead .. i * hop - lead + fft`` (see ``DecoderConfig.lead_samples``).
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ttt_ref.codec.builtin.config import DecoderConfig

F0_LOW_HZ, F0_HIGH_HZ = 50.0, 700.0
LOG_GAIN_LOW, LOG_GAIN_HIGH = -12.0, 5.0


def ramp_to_samples(frames: Tensor, hop: int, first: Tensor) -> Tensor:
    """Values at frame ends [B, F] -> straight lines between them [B, F * hop]."""
    before = torch.cat([first[:, None], frames[:, :-1]], dim=1)
    share = torch.arange(1, hop + 1, dtype=frames.dtype, device=frames.device) / hop
    return (before[..., None] + (frames - before)[..., None] * share).flatten(1)


def pulse_train(f0_hz: Tensor, voiced: Tensor, config: DecoderConfig, phase: Tensor) -> Tensor:
    """Band-limited pulses of unit power: f0 [B, F] in Hz, voicing [B, F] in 0..1 -> [B, F * hop].

    All harmonics below half the sample rate with equal weight, in closed form (Dirichlet
    kernel). ``phase`` [B]: the phase before the first sample, in radians.
    """
    f0 = ramp_to_samples(f0_hz.double(), config.hop_samples, f0_hz[:, 0].double())
    gain = ramp_to_samples(voiced.double(), config.hop_samples, torch.zeros_like(phase))
    angle = phase[:, None] + torch.cumsum(f0 * (2 * math.pi / config.sample_rate_hz), dim=1)
    angle = torch.remainder(angle, 2 * math.pi)
    count = torch.floor(config.sample_rate_hz / 2 / f0)
    half = torch.sin(angle / 2)
    small = half.abs() < 1e-7
    kernel = torch.sin((count + 0.5) * angle) / (2 * torch.where(small, 1.0, half)) - 0.5
    kernel = torch.where(small, count, kernel)
    pulses: Tensor = (kernel * torch.sqrt(2.0 / count) * gain).float()
    return pulses


def noise_like(config: DecoderConfig, samples: int) -> Tensor:
    """The decoder's seeded white noise [1, samples]: the same for every utterance and chunking."""
    rng = np.random.default_rng(config.noise_seed)
    return torch.from_numpy(rng.standard_normal(samples, dtype=np.float32))[None]


def overlap_gain(config: DecoderConfig, device: torch.device | None = None) -> Tensor:
    """1 / sum of squared windows at each of the hop's samples [hop], as if frames never ended."""
    window = torch.hann_window(config.fft_samples, periodic=True, device=device)
    padded = F.pad(window.square(), (0, -config.fft_samples % config.hop_samples))
    inverse: Tensor = 1.0 / padded.view(-1, config.hop_samples).sum(0)
    return inverse


def frames_of(source: Tensor, config: DecoderConfig) -> Tensor:
    """Source [B, F * hop] -> spectra of its windowed frames, complex [B, F, bins].

    The source counts as zero before its start and after its end.
    """
    lead, hop, size = config.lead_samples, config.hop_samples, config.fft_samples
    window = torch.hann_window(size, periodic=True, device=source.device)
    frames = F.pad(source, (lead, hop)).unfold(1, size, hop)
    spectra: Tensor = torch.fft.rfft(frames * window)
    return spectra


def overlap_add(spectra: Tensor, config: DecoderConfig) -> Tensor:
    """Spectra complex [B, F, bins] -> audio [B, F * hop]; the counterpart of :func:`frames_of`."""
    hop, size, lead = config.hop_samples, config.fft_samples, config.lead_samples
    window = torch.hann_window(size, periodic=True, device=spectra.device)
    frames = torch.fft.irfft(spectra, n=size) * window
    count = frames.shape[1]
    total = (count - 1) * hop + size
    summed = F.fold(frames.transpose(1, 2), (1, total), (1, size), stride=(1, hop)).flatten(1)
    rest = -(-size // hop) * hop - size
    steps = F.pad(summed, (0, rest)).reshape(len(summed), -1, hop)
    audio = steps * overlap_gain(config, summed.device)
    return audio.flatten(1)[:, lead : lead + count * hop]


def noise_gate(pulse_gain: Tensor, noise_gain: Tensor, config: DecoderConfig) -> Tensor:
    """Gain per frame [..., F, 1] that closes in silence, from the filters [..., F, bins] alone."""
    power = (pulse_gain.square() + noise_gain.square()).mean(-1, keepdim=True)
    level_db = 10.0 * torch.log10(power + 1e-12)
    return ((level_db - config.gate_db) / config.gate_range_db).clamp(0.0, 1.0)


def gains(filters: Tensor) -> tuple[Tensor, Tensor]:
    """Gains of pulses and noise [..., bins] from log filters [..., 3, bins]."""
    limited = filters[..., 0::2, :].clamp(LOG_GAIN_LOW, LOG_GAIN_HIGH)
    pulse, noise = torch.exp(limited).unbind(-2)
    return pulse, noise


def render(
    f0_hz: Tensor,
    voiced: Tensor,
    filters: Tensor,
    config: DecoderConfig,
    noise: Tensor,
    phase: Tensor,
    gate: bool = False,
) -> Tensor:
    """Filter both sources: f0 and voicing [B, F], filters [B, F, 3, bins] -> audio [B, F * hop].

    Filters: log gain and phase for the pulses, log gain for the noise [B, F * hop].
    """
    filters = filters.float()
    pulse_gain, noise_gain = gains(filters)
    if gate:
        opening = noise_gate(pulse_gain * voiced[..., None], noise_gain, config)
        pulse_gain, noise_gain = pulse_gain * opening, noise_gain * opening
    pulses = frames_of(pulse_train(f0_hz, voiced, config, phase), config)
    shaped = pulses * torch.polar(pulse_gain, filters[:, :, 1])
    return overlap_add(shaped + frames_of(noise, config) * noise_gain, config)
