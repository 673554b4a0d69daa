"""What the GLM-4-Voice codec does with audio, tokens and params that it cannot use."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.runtime.codec.conftest import TinyGlm
from ttt_ref.codec.glm4voice import resample as torch_resample
from ttt_ref.errors import AudioError, BundleError, CodecError
from ttt_runtime.audio.reader import read_question
from ttt_runtime.codec.glm4voice.params import DecoderParams, TokenizerParams
from ttt_runtime.codec.glm4voice.resample import released_input, resample
from ttt_runtime.profiler.glm4voice.times import speechlike


def both(tiny_glm: TinyGlm, audio: np.ndarray) -> np.ndarray:
    """Encode with the runtime, hold it to torch, and return the tokens."""
    want = tiny_glm.torch_tokenizer.encode(torch.from_numpy(audio)).numpy()
    got = tiny_glm.tokenizer.encode(audio)
    assert np.array_equal(got, want)
    return got


@pytest.mark.parametrize(("samples", "tokens"), [(0, 0), (1, 1), (1280, 1), (1281, 2)])
def test_short_audio(tiny_glm: TinyGlm, samples: int, tokens: int) -> None:
    assert len(both(tiny_glm, speechlike(1.0)[:samples])) == tokens


def test_silence_clipping_and_offsets_give_tokens(tiny_glm: TinyGlm) -> None:
    audio = speechlike(1.0)
    for case in (np.zeros_like(audio), np.ones_like(audio), np.sign(audio), audio * 1e4):
        assert len(both(tiny_glm, case)) == 13


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(tiny_glm: TinyGlm, bad: float) -> None:
    audio = speechlike(0.5)
    audio[100] = bad
    for take in (tiny_glm.tokenizer.encode, tiny_glm.tokenizer.stream().push):
        with pytest.raises(AudioError, match="finite"):
            take(audio)
    with pytest.raises(AudioError, match="finite"):
        tiny_glm.torch_tokenizer.encode(torch.from_numpy(audio))


def test_audio_of_a_wrong_form_is_refused(tiny_glm: TinyGlm) -> None:
    for bad in (np.zeros((2, 100), np.float32), np.zeros(100, np.int16)):
        with pytest.raises(AudioError, match="expected one channel"):
            tiny_glm.tokenizer.encode(bad)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2, 3, 5, 8])
def test_any_rate_and_channel_count_gives_the_same_length(
    tiny_glm: TinyGlm, tmp_path: Path, rate: int, channels: int
) -> None:
    sound = np.sin(2 * np.pi * 440 * np.arange(rate // 2) / rate).astype(np.float32)
    audio = np.stack([sound * (c + 1) for c in range(channels)], 1)
    soundfile.write(tmp_path / "a.wav", audio, rate, subtype="FLOAT")
    heard = read_question(tmp_path / "a.wav", tiny_glm.tokenizer).audio
    assert np.array_equal(heard, released_input(audio, rate))
    assert len(heard) == 8_000
    # The first channel, and still the same tone (away from the edges).
    tone = np.sin(2 * np.pi * 440 * np.arange(8_000) / 16_000)
    assert np.abs(heard - tone)[200:-200].max() < 0.02
    assert len(tiny_glm.tokenizer.encode(heard)) == 7


def test_odd_rates_take_little_memory_and_absurd_ones_are_refused() -> None:
    audio = speechlike(0.1)
    assert len(resample(audio, 44_101)) == pytest.approx(len(audio) * 16_000 / 44_101, abs=2)
    with pytest.raises(AudioError, match="no simple ratio"):
        torch_resample.resample(torch.from_numpy(audio), 44_101)
    for rate in (0, -16_000, 10_000_000):
        with pytest.raises(AudioError, match="sample rate"):
            resample(audio, rate)


class _NoGraph:
    """A session that answers at once, so that an hour can be tested for memory."""

    def __init__(self, session, layers: int, width: int) -> None:
        self.spec, self._layers, self._width = session.spec, layers, width

    def run(self, feeds):
        count = len(feeds["positions"])
        assert feeds["past_k.0"].shape[1] <= 1_500
        new = [np.zeros((1, count, self._width), np.float32)] * (2 * self._layers)
        return [np.zeros((1, count // 4), np.int64), *new]


def test_an_hour_of_audio_takes_the_memory_of_a_segment(tiny_glm: TinyGlm, monkeypatch) -> None:
    params = tiny_glm.tokenizer.params
    fake = _NoGraph(tiny_glm.tokenizer.session, params.layers, params.width)
    monkeypatch.setattr(tiny_glm.tokenizer, "session", fake)
    stream = tiny_glm.tokenizer.stream()
    second = speechlike(30.0)
    tracemalloc.start()
    tokens = 0
    for number in range(120):
        tokens += len(stream.push(second))
        if number == 3:
            early = tracemalloc.get_traced_memory()[1]
    tokens += len(stream.finish())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert tokens == 45_000
    assert peak <= 1.1 * early
    assert peak < 120e6


class _NoVocoder:
    """Gives silence for frames, and says how much it has to remember."""

    def push(self, mel, ahead):
        return np.zeros(mel.shape[2] * 256, np.float32)


def test_an_hour_of_speech_takes_the_memory_of_a_window(tiny_glm: TinyGlm, monkeypatch) -> None:
    decoder = tiny_glm.decoder.with_options(steps=1)
    monkeypatch.setattr(
        decoder.flow, "means", lambda tokens, index: np.zeros((1, 80, len(index)), np.float32)
    )
    monkeypatch.setattr(decoder.flow, "solve", lambda mu, prompt, noise: noise.copy())
    monkeypatch.setattr(decoder, "vocoder_stream", _NoVocoder)
    silence = np.zeros((80, 2_000), np.float32)
    monkeypatch.setattr(decoder, "_flow_noise", lambda: lambda first, count: silence[:, :count])
    stream = decoder.stream()
    tracemalloc.start()
    samples, tokens = 0, np.arange(750) % 64
    for minute in range(60):
        samples += len(stream.push(tokens))
        if minute == 1:
            early = tracemalloc.get_traced_memory()[1]
    samples += len(stream.finish())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert samples == 45_000 * 441 // 64 * 256
    assert peak <= 1.1 * early
    assert peak < 40e6


@pytest.mark.parametrize("bad", [[64], [-1], [3, 1 << 40], [1 << 62]])
def test_ids_that_are_no_speech_are_refused(tiny_glm: TinyGlm, bad: list[int]) -> None:
    """Text ids, tags and masks are not 0..63: a caller that forgot to strip them gets an error."""
    tokens = np.array([1, 2, *bad])
    stream = tiny_glm.decoder.stream()
    for take in (tiny_glm.decoder.decode, stream.push):
        with pytest.raises(CodecError, match="no speech token"):
            take(tokens)
    assert len(stream.push(np.array([1, 2]))) == 0
    assert len(stream.finish()) > 0


def test_tokens_of_a_wrong_form_are_refused(tiny_glm: TinyGlm) -> None:
    for bad in (np.array([1.5]), np.array([[1, 2]]), np.array(["a"])):
        with pytest.raises(CodecError, match="whole numbers"):
            tiny_glm.decoder.decode(bad)


def test_no_tokens_give_no_audio(tiny_glm: TinyGlm) -> None:
    assert len(tiny_glm.decoder.decode(np.zeros(0, np.int64))) == 0
    assert len(tiny_glm.decoder.decode([])) == 0
    assert len(tiny_glm.decoder.stream().finish()) == 0


@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_few_tokens_give_all_their_frames(tiny_glm: TinyGlm, count: int) -> None:
    tokens = np.arange(count)
    stream = tiny_glm.decoder.stream()
    audio = np.concatenate((stream.push(tokens), stream.finish()))
    assert len(audio) == len(tiny_glm.decoder.decode(tokens)) == count * 441 // 64 * 256
    assert np.isfinite(audio).all()


def test_finished_streams_take_no_more(tiny_glm: TinyGlm) -> None:
    decode, encode = tiny_glm.decoder.stream(), tiny_glm.tokenizer.stream()
    decode.finish()
    encode.finish()
    assert len(decode.finish()) == 0
    with pytest.raises(CodecError, match="finished"):
        decode.push(np.array([1]))
    with pytest.raises(AudioError, match="finished"):
        encode.push(speechlike(0.1))


BAD_DECODER = [
    {"steps": 0},
    {"steps": 2.5},
    {"solver": "magic"},
    {"plan_tokens": []},
    {"plan_tokens": [0]},
    {"plan_tokens": "13"},
    {"hold_frames": -1},
    {"window_tokens": 10**9},
    {"guidance": float("nan")},
    {"source_weight": [1.0]},
    {"speaker": [0.0]},
    {"num_codes": True},
    {"seed": -1},
    {"colour": "red"},
]


@pytest.mark.parametrize("change", BAD_DECODER, ids=lambda c: next(iter(c)))
def test_params_of_a_damaged_bundle_are_refused(tiny_glm: TinyGlm, change: dict) -> None:
    good = tiny_glm.decoder.params.to_dict()
    assert DecoderParams.from_dict(good) == tiny_glm.decoder.params
    with pytest.raises(BundleError, match="codec params"):
        DecoderParams.from_dict(good | change)
    lacking = {k: v for k, v in good.items() if k != "guidance"}
    with pytest.raises(BundleError, match="guidance"):
        DecoderParams.from_dict(lacking)


def test_tokenizer_params_are_checked_too(tiny_glm: TinyGlm) -> None:
    good = tiny_glm.tokenizer.params
    assert TokenizerParams.from_dict(good.to_dict()) == good
    for change in ({"layers": 0}, {"block_positions": 201}):
        with pytest.raises(BundleError):
            replace(good, **change)
    with pytest.raises(BundleError):
        TokenizerParams.from_dict([1])
