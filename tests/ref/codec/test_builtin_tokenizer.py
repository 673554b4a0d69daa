"""The built-in speech tokenizer in torch: framing, context, padding, bad input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ttt_ref.codec.builtin.checkpoint import load_tokenizer, save_tokenizer
from ttt_ref.codec.builtin.config import TokenizerConfig
from ttt_ref.codec.builtin.layers import digits_to_ids, ids_to_digits
from ttt_ref.codec.builtin.tokenizer import FoldableNorm, SpeechTokenizer, quantise
from ttt_ref.errors import AudioError, CheckpointError, ConfigError

TINY = TokenizerConfig(width=16, expansion=2, right_context=(2, 1))


@pytest.fixture(scope="module")
def tokenizer() -> SpeechTokenizer:
    torch.manual_seed(0)
    made = SpeechTokenizer(TINY)
    made.encoder.digit_norm.var.fill_(0.02)  # spread an untrained network over the code book
    return made.eval().requires_grad_(False)


def sound(samples: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(samples, generator=generator)


def test_ids_and_digits_are_inverse() -> None:
    ids = torch.arange(729)
    assert torch.equal(digits_to_ids(ids_to_digits(ids, 6)), ids)


def test_quantise_rounds_and_passes_the_gradient() -> None:
    with torch.inference_mode(False), torch.enable_grad():
        u = torch.tensor([-0.9, -0.2, 0.4, 0.6], requires_grad=True)
        q = quantise(u)
        q.sum().backward()
    assert q.tolist() == [-1, 0, 0, 1]
    assert u.grad is not None
    assert u.grad.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("samples", [1, 639, 640, 641, 16_000])
def test_token_count_follows_from_the_padded_length(
    tokenizer: SpeechTokenizer, samples: int
) -> None:
    ids = tokenizer.encode(sound(samples))
    assert len(ids) == -(-(samples + 6400) // 640) == tokenizer.count_tokens(samples)
    assert ids.dtype == torch.int64
    assert 0 <= int(ids.min()) <= int(ids.max()) < 729


def test_the_untrained_network_uses_more_than_a_few_codes(tokenizer: SpeechTokenizer) -> None:
    assert len(tokenizer.encode(sound(64_000)).unique()) > 10


def test_empty_audio_gives_no_tokens(tokenizer: SpeechTokenizer) -> None:
    assert len(tokenizer.encode(torch.zeros(0))) == 0


def test_silence_is_encoded_like_the_silence_around_speech(tokenizer: SpeechTokenizer) -> None:
    """Padding is digital silence, so silence of any length is the same stretch of tokens."""
    long, short = tokenizer.encode(torch.zeros(32_000)), tokenizer.encode(torch.zeros(16_000))
    middle = slice(TINY.look_back_tokens, len(short) - TINY.look_ahead_tokens)
    assert len(long[middle].unique()) == 1
    assert torch.equal(long[: middle.stop], short[: middle.stop])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_samples_that_are_not_finite_are_refused(tokenizer: SpeechTokenizer, value: float) -> None:
    audio = sound(1000)
    audio[500] = value
    with pytest.raises(AudioError, match="NaN or infinite"):
        tokenizer.encode(audio)


def test_two_channels_are_refused(tokenizer: SpeechTokenizer) -> None:
    with pytest.raises(AudioError, match="one channel"):
        tokenizer.encode(torch.zeros(2, 100))


def test_a_batch_gives_the_tokens_of_single_utterances(tokenizer: SpeechTokenizer) -> None:
    audios = [sound(n, seed=n) for n in (700, 9_000, 16_001, 4)]
    together = tokenizer.encode_batch(audios)
    for audio, ids in zip(audios, together, strict=True):
        assert torch.equal(ids, tokenizer.encode(audio))


def test_stated_context_is_the_true_one(tokenizer: SpeechTokenizer) -> None:
    """Values depend on the stated tokens before and after, and on the outermost ones do depend."""
    size, count, at = TINY.code_samples, 40, 20
    first, last = at - TINY.look_back_tokens, at + TINY.look_ahead_tokens
    base = sound(count * size)

    def value(audio: torch.Tensor) -> torch.Tensor:
        return tokenizer.encoder(tokenizer.mel(audio[None]))[0, at]

    outside = base.clone()
    outside[: first * size] = 0.0
    outside[(last + 1) * size :] = 0.0
    assert torch.allclose(value(base), value(outside), atol=1e-6)
    for inner in (first, last):
        inside = base.clone()
        inside[inner * size : (inner + 1) * size] = 0.0
        assert not torch.allclose(value(base), value(inside), atol=1e-6)


def test_normalisation_ignores_padding_and_prevents_collapse() -> None:
    norm = FoldableNorm(2)
    x = torch.randn(3, 50, 2) * 0.01 + 5.0
    mask = torch.ones(3, 50, 1)
    mask[0, 10:] = 0
    x[0, 10:] = 1e6
    valid = norm(x, mask)[mask.squeeze(-1) > 0]
    assert torch.allclose(valid.mean(0), torch.zeros(2), atol=1e-3)
    assert torch.allclose(valid.std(0), torch.ones(2), atol=0.1)


def test_checkpoint_round_trip(tokenizer: SpeechTokenizer, tmp_path: Path) -> None:
    save_tokenizer(tmp_path, tokenizer)
    again = load_tokenizer(tmp_path)
    assert again.config == TINY
    assert torch.equal(again.encode(sound(9_000)), tokenizer.encode(sound(9_000)))


def test_damaged_or_partial_checkpoints_are_refused(
    tokenizer: SpeechTokenizer, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="no config"):
        load_tokenizer(tmp_path)
    save_tokenizer(tmp_path, tokenizer)
    weights = tmp_path / "tokenizer.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        load_tokenizer(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError, match="incomplete"):
        load_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="not a codec configuration"):
        load_tokenizer(tmp_path)


def test_impossible_configurations_are_refused() -> None:
    with pytest.raises(ConfigError, match="right_context"):
        replace(TINY, right_context=(7,))
    with pytest.raises(ConfigError, match="pad_samples"):
        replace(TINY, pad_samples=100)
    with pytest.raises(ConfigError, match="unknown key"):
        TokenizerConfig.from_dict({"widht": 3})
