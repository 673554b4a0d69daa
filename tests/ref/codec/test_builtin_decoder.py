"""The built-in speech decoder in torch: sources, causality, silence, bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ttt_ref.codec.builtin.checkpoint import load_decoder, save_decoder
from ttt_ref.codec.builtin.config import DecoderConfig
from ttt_ref.codec.builtin.decoder import SpeechDecoder
from ttt_ref.codec.builtin.source import (
    frames_of,
    noise_like,
    overlap_add,
    pulse_train,
    render,
)
from ttt_ref.errors import CodecError

TINY = DecoderConfig(width=16, expansion=2, code_blocks=1, frame_blocks=2, filter_blocks=1)


@pytest.fixture(scope="module")
def decoder() -> SpeechDecoder:
    torch.manual_seed(0)
    return SpeechDecoder(TINY).eval().requires_grad_(False)


def test_frames_overlap_add_to_the_same_signal() -> None:
    source = torch.randn(2, 40 * TINY.hop_samples)
    again = overlap_add(frames_of(source, TINY), TINY)
    assert again.shape == source.shape
    inner = slice(2 * TINY.fft_samples, -2 * TINY.fft_samples)
    assert torch.allclose(again[:, inner], source[:, inner], atol=1e-5)


def test_pulse_train_has_the_asked_pitch_and_unit_power() -> None:
    frames, f0_hz = 100, 125.0
    f0, voiced = torch.full((1, frames), f0_hz), torch.ones(1, frames)
    pulses = pulse_train(f0, voiced, TINY, torch.zeros(1, dtype=torch.float64))[0]
    steady = pulses[1600:]
    assert float(steady.square().mean()) == pytest.approx(1.0, abs=0.05)
    period = int(TINY.sample_rate_hz / f0_hz)
    assert torch.allclose(steady[period:], steady[:-period], atol=2e-3)
    assert torch.equal(
        pulse_train(f0, torch.zeros(1, frames), TINY, torch.zeros(1, dtype=torch.float64)),
        torch.zeros(1, frames * TINY.hop_samples),
    )


@pytest.mark.parametrize("count", [1, 2, 37])
def test_audio_length_and_finiteness(decoder: SpeechDecoder, count: int) -> None:
    audio = decoder.decode(torch.arange(count))
    assert audio.shape == (count * TINY.code_samples,)
    assert bool(torch.isfinite(audio).all())


def test_no_codes_give_no_audio(decoder: SpeechDecoder) -> None:
    assert len(decoder.decode(torch.zeros(0, dtype=torch.int64))) == 0


@pytest.mark.parametrize("bad", [-1, 729])
def test_codes_outside_the_code_book_are_refused(decoder: SpeechDecoder, bad: int) -> None:
    with pytest.raises(CodecError, match="outside the code book"):
        decoder.decode(torch.tensor([3, bad]))


def test_codes_of_two_axes_are_refused(decoder: SpeechDecoder) -> None:
    with pytest.raises(CodecError, match="shape"):
        decoder.decode(torch.zeros(1, 3, dtype=torch.int64))


def test_audio_depends_on_the_stated_look_ahead_only(decoder: SpeechDecoder) -> None:
    ids = torch.arange(30)
    changed = ids.clone()
    changed[20:] = 500
    a, b = decoder.decode(ids), decoder.decode(changed)
    # One frame waits for its successor's source, and a window reaches `lead` beyond it.
    known = (20 - TINY.look_ahead_tokens) * TINY.code_samples - TINY.fft_samples
    assert torch.allclose(a[:known], b[:known], atol=1e-6)
    assert not torch.allclose(a[: known + 2 * TINY.fft_samples], b[: known + 2 * TINY.fft_samples])


def test_network_in_pieces_equals_the_network_at_once(decoder: SpeechDecoder) -> None:
    ids = torch.randint(0, 730, (2, 23), generator=torch.Generator().manual_seed(1))
    whole = decoder.network(ids)
    for size in (1, 5):
        past, parts = None, []
        for start in range(0, 23, size):
            *out, past = decoder.network(ids[:, start : start + size], None, past)
            parts.append(out)
        for index in range(3):
            joined = torch.cat([p[index] for p in parts], 1)
            assert torch.allclose(joined, whole[index], atol=1e-5)


def test_gate_closes_on_faint_frames_only() -> None:
    frames = 40
    filters = torch.zeros(1, frames, 3, TINY.bins)
    filters[:, :20, 0::2] = -9.0  # about -78 dB
    filters[:, 20:, 0::2] = -4.0
    f0, voiced = torch.full((1, frames), 200.0), torch.ones(1, frames)
    noise = noise_like(TINY, frames * TINY.hop_samples)
    phase = torch.zeros(1, dtype=torch.float64)
    gated = render(f0, voiced, filters, TINY, noise, phase, gate=True)[0]
    plain = render(f0, voiced, filters, TINY, noise, phase)[0]
    assert float(gated[: 17 * TINY.hop_samples].abs().max()) == 0.0
    assert float(plain[: 17 * TINY.hop_samples].abs().max()) > 0.0
    assert torch.equal(gated[24 * TINY.hop_samples :], plain[24 * TINY.hop_samples :])


def test_checkpoint_round_trip(decoder: SpeechDecoder, tmp_path: Path) -> None:
    save_decoder(tmp_path, decoder)
    again = load_decoder(tmp_path)
    assert torch.equal(again.decode(torch.arange(9)), decoder.decode(torch.arange(9)))
