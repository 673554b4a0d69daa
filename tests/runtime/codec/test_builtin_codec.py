"""The built-in codec without torch: equals torch, streams like offline, refuses bad input."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.runtime.codec.builtin_toys import DECODER, TOKENIZER, ToyCodec, make_codec, sound
from ttt_ref.errors import AudioError, BundleError, CodecError, ExportError
from ttt_runtime.backends.ort.session import GraphSession, SessionSettings
from ttt_runtime.bundle.folder import BundleWriter
from ttt_runtime.codec.builtin import tokenizer as tokenizer_module
from ttt_runtime.codec.builtin.decoder import BuiltinDecoder
from ttt_runtime.codec.builtin.params import DecoderParams, TokenizerParams
from ttt_runtime.codec.builtin.specs import DECODER_GRAPH, TOKENIZER_GRAPH
from ttt_runtime.codec.builtin.tokenizer import BuiltinTokenizer


@pytest.fixture(scope="module", params=["fp32", "int8"])
def codec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ToyCodec:
    return make_codec(tmp_path_factory.mktemp(request.param), request.param)


def session(codec: ToyCodec, name: str) -> GraphSession:
    graph = codec.entry.graphs[name]
    return GraphSession(codec.folder / graph.file, graph.spec, SessionSettings("cpu", 1))


@pytest.fixture(scope="module")
def tokenizer(codec: ToyCodec) -> BuiltinTokenizer:
    params = TokenizerParams.from_dict(codec.entry.params["tokenizer"])
    return BuiltinTokenizer(params, session(codec, TOKENIZER_GRAPH))


@pytest.fixture(scope="module")
def decoder(codec: ToyCodec) -> BuiltinDecoder:
    params = DecoderParams.from_dict(codec.entry.params["decoder"])
    return BuiltinDecoder(params, session(codec, DECODER_GRAPH))


def codes(count: int, seed: int = 2) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, 729, count)


def pieces(values: NDArray[np.generic], size: int) -> Iterable[NDArray[np.generic]]:
    return (values[i : i + size] for i in range(0, len(values), size))


def test_stated_rates(tokenizer: BuiltinTokenizer, decoder: BuiltinDecoder) -> None:
    assert (tokenizer.sample_rate_hz, tokenizer.frame_rate_hz) == (16_000, 25.0)
    assert (tokenizer.num_codes, decoder.sample_rate_hz) == (729, 16_000)


def test_tokens_equal_torch(codec: ToyCodec, tokenizer: BuiltinTokenizer) -> None:
    audio = sound(40_000)
    want = codec.tokenizer.encode(torch.from_numpy(audio)).numpy()
    got = tokenizer.encode(audio)
    assert got.dtype == np.int64
    assert len(np.unique(want)) > 10
    if codec.precision == "fp32":
        np.testing.assert_array_equal(got, want)
    else:
        assert np.mean(got == want) > 0.7


def test_audio_equals_torch(codec: ToyCodec, decoder: BuiltinDecoder) -> None:
    ids = codes(40)
    want = codec.decoder.decode(torch.from_numpy(ids)).numpy()
    got = decoder.decode(ids)
    assert got.dtype == np.float32
    assert got.shape == want.shape == (40 * 640,)
    assert np.abs(want).max() > 0.01
    if codec.precision == "fp32":
        # Pitch that differs in its last bit shifts the phase of high harmonics a little.
        np.testing.assert_allclose(got, want, atol=1e-3)


@pytest.mark.parametrize("size", [1, 159, 640, 1000, 16_000])
def test_streamed_tokens_equal_offline(tokenizer: BuiltinTokenizer, size: int) -> None:
    audio = sound(3_000 if size == 1 else 60_000)
    stream = tokenizer.stream()
    parts = [stream.push(piece) for piece in pieces(audio, size)]
    if size == 1000:
        assert sum(len(p) for p in parts) > 60, "tokens must come before the end"
    got = np.concatenate([*parts, stream.finish()])
    np.testing.assert_array_equal(got, tokenizer.encode(audio))


@pytest.mark.parametrize("size", [1, 2, 26, 33])
def test_streamed_audio_equals_offline(decoder: BuiltinDecoder, size: int) -> None:
    ids = codes(60)
    stream = decoder.stream()
    parts = [stream.push(piece) for piece in pieces(ids, size)]
    assert sum(len(p) for p in parts) >= (60 - DECODER.look_ahead_tokens - 1) * 640
    got = np.concatenate([*parts, stream.finish()])
    np.testing.assert_allclose(got, decoder.decode(ids), atol=1e-4)


def test_long_audio_is_encoded_in_bounded_windows(
    tokenizer: BuiltinTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = sound(100_000)
    want = tokenizer.encode(audio)
    monkeypatch.setattr(tokenizer_module, "MAX_RUN_TOKENS", 50)
    np.testing.assert_array_equal(tokenizer.encode(audio), want)


def test_empty_input_gives_nothing(tokenizer: BuiltinTokenizer, decoder: BuiltinDecoder) -> None:
    assert len(tokenizer.encode(np.zeros(0, np.float32))) == 0
    assert len(decoder.decode(np.zeros(0, np.int64))) == 0
    stream = decoder.stream()
    assert len(stream.push(np.zeros(0, np.int64))) == 0
    assert len(stream.finish()) == 0


def test_one_sample_and_one_code(tokenizer: BuiltinTokenizer, decoder: BuiltinDecoder) -> None:
    assert len(tokenizer.encode(np.ones(1, np.float32))) == 11
    assert decoder.decode(codes(1)).shape == (640,)


def test_silence_gives_one_steady_token(tokenizer: BuiltinTokenizer) -> None:
    ids = tokenizer.encode(np.zeros(32_000, np.float32))
    inner = ids[TOKENIZER.look_back_tokens : len(ids) - TOKENIZER.look_ahead_tokens]
    assert len(np.unique(inner)) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_audio_that_is_not_finite_is_refused(tokenizer: BuiltinTokenizer, value: float) -> None:
    audio = sound(100)
    audio[3] = value
    with pytest.raises(AudioError, match="NaN or infinite"):
        tokenizer.encode(audio)


def test_two_channels_are_refused(tokenizer: BuiltinTokenizer) -> None:
    with pytest.raises(AudioError, match="one channel"):
        tokenizer.encode(np.zeros((10, 2), np.float32))


@pytest.mark.parametrize(
    "bad", [np.array([0, 729]), np.array([-1]), np.array([1.5]), np.zeros((1, 2), np.int64)]
)
def test_codes_that_are_none_are_refused(decoder: BuiltinDecoder, bad: NDArray[np.int64]) -> None:
    with pytest.raises(CodecError, match="speech tokens"):
        decoder.decode(bad)


def test_a_refused_push_leaves_the_stream_usable(decoder: BuiltinDecoder) -> None:
    ids, stream = codes(10), decoder.stream()
    with pytest.raises(CodecError):
        stream.push(np.array([999]))
    got = np.concatenate([stream.push(ids), stream.finish()])
    np.testing.assert_allclose(got, decoder.decode(ids), atol=1e-6)


def test_finished_streams_take_no_more(
    tokenizer: BuiltinTokenizer, decoder: BuiltinDecoder
) -> None:
    for stream, piece in ((tokenizer.stream(), sound(10)), (decoder.stream(), codes(1))):
        stream.finish()
        with pytest.raises(CodecError, match="finished"):
            stream.push(piece)  # type: ignore[arg-type]
        with pytest.raises(CodecError, match="finished"):
            stream.finish()


def test_int8_files_are_a_quarter(tmp_path_factory: pytest.TempPathFactory) -> None:
    sizes = {}
    for precision in ("fp32", "int8"):
        made = make_codec(tmp_path_factory.mktemp(f"size-{precision}"), precision)
        file = made.folder / made.entry.graphs[DECODER_GRAPH].file
        sizes[precision] = file.stat().st_size
    assert sizes["int8"] < 0.5 * sizes["fp32"]


def test_damaged_params_are_refused(codec: ToyCodec) -> None:
    good = dict(codec.entry.params["tokenizer"])
    for change in ({"hop_samples": 0}, {"hop_samples": "160"}, {"more": 1}, {"pad_samples": 7}):
        with pytest.raises(BundleError, match="built-in"):
            TokenizerParams.from_dict({**good, **change})
    with pytest.raises(BundleError, match="lead"):
        DecoderParams.from_dict({**codec.entry.params["decoder"], "lead_samples": 100})


def test_unknown_precision_is_refused(codec: ToyCodec) -> None:
    from ttt_export.codec.builtin import export_builtin

    folder = codec.folder.parent
    with BundleWriter(folder / "other") as writer, pytest.raises(ExportError, match="int3"):
        export_builtin(folder / "checkpoint", writer, "cpu", "int3")


@pytest.mark.parametrize("size", [159, 1000, 16_000])
def test_a_fork_is_finished_while_the_stream_goes_on(
    tokenizer: BuiltinTokenizer, size: int
) -> None:
    audio = sound(60_000)
    stream, got, at = tokenizer.stream(), [], 0
    for number, piece in enumerate(pieces(audio, size)):
        got.append(stream.push(piece))
        at += len(piece)
        if number % 7 == 0:
            whole = np.concatenate([*got, stream.fork().finish()])
            np.testing.assert_array_equal(whole, tokenizer.encode(audio[:at]))
    got.append(stream.finish())
    np.testing.assert_array_equal(np.concatenate(got), tokenizer.encode(audio))
