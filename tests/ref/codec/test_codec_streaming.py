"""The reference codec's streams against its offline forms, on random weights."""

from __future__ import annotations

import pytest
import torch

from ttt_ref.codec.glm4voice import seams
from ttt_ref.codec.glm4voice.codec import Glm4VoiceDecoder
from ttt_ref.codec.glm4voice.stream_bounded import StreamOptions
from ttt_ref.codec.glm4voice.timing import frames_before
from ttt_ref.errors import AudioError, CodecError


def speechlike(seconds: float, seed: int = 0) -> torch.Tensor:
    """Noise whose level moves by 60 dB, so that the feature floor rises in mid-recording."""
    generator = torch.Generator().manual_seed(seed)
    samples = int(seconds * 16_000)
    level_db = torch.nn.functional.interpolate(
        torch.rand(1, 1, max(2, int(seconds * 3)), generator=generator) * -60, samples
    )[0, 0]
    return torch.randn(samples, generator=generator) * 0.3 * 10 ** (level_db / 20)


def encode_streamed(tokenizer, audio: torch.Tensor, piece: int) -> torch.Tensor:
    stream = tokenizer.stream()
    return torch.cat([*(stream.push(part) for part in audio.split(piece)), stream.finish()])


@pytest.mark.parametrize("piece", [160, 2_311, 100_000])
@pytest.mark.parametrize("seconds", [0.01, 4.0, 9.3])
def test_streamed_ids_equal_offline_ids(tiny_tokenizer, seconds: float, piece: int) -> None:
    audio = speechlike(seconds)
    assert torch.equal(encode_streamed(tiny_tokenizer, audio, piece), tiny_tokenizer.encode(audio))


@pytest.mark.parametrize("samples", [480_000, 480_001, 481_280, 531_000])
def test_streamed_ids_equal_offline_ids_over_a_segment_border(tiny_tokenizer, samples: int) -> None:
    audio = speechlike(samples / 16_000 + 0.01)[:samples]
    assert torch.equal(encode_streamed(tiny_tokenizer, audio, 16_000), tiny_tokenizer.encode(audio))


def test_a_late_loud_moment_changes_earlier_tokens_and_the_stream_follows(tiny_tokenizer) -> None:
    """The range limit is taken over the whole segment: quiet blocks closed long ago change."""
    audio = speechlike(14.0) * 1e-3
    audio[-2_000:] = 0.9 * torch.sign(torch.sin(torch.arange(2_000) * 0.3))
    stream = tiny_tokenizer.stream()
    for part in audio.split(3_200):
        stream.push(part)
    early = stream.closed_ids
    assert len(early) == 150
    final = stream.finish()
    assert torch.equal(final, tiny_tokenizer.encode(audio))
    assert not torch.equal(final[:150], early)


def test_after_the_last_sample_only_the_open_block_is_left(tiny_tokenizer, monkeypatch) -> None:
    from ttt_ref.codec.glm4voice import stream_encode

    audio = speechlike(21.0)
    audio[:8_000] *= 10  # the loudest moment comes first
    stream = tiny_tokenizer.stream()
    for part in audio.split(1_600):
        stream.push(part)
    calls = []
    real = stream_encode.encode_block
    monkeypatch.setattr(
        stream_encode, "encode_block", lambda *args: calls.append(args) or real(*args)
    )
    stream.finish()
    assert len(calls) == 1


def test_encode_stream_refuses_what_it_cannot_use(tiny_tokenizer) -> None:
    stream = tiny_tokenizer.stream()
    with pytest.raises(AudioError, match="finite"):
        stream.push(torch.tensor([0.0, float("nan")]))
    assert len(stream.push(torch.zeros(0))) == 0
    assert len(stream.finish()) == 0
    with pytest.raises(AudioError, match="finished"):
        stream.push(torch.zeros(10))


def codes(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 64, (count,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sizes", [(5, 20, 1, 33), (1,) * 25, (200,)])
def test_streamed_vocoder_equals_whole(tiny_decoder, sizes: tuple[int, ...]) -> None:
    mel = torch.randn(1, 80, 120, generator=torch.Generator().manual_seed(1))
    whole = tiny_decoder.vocoder().push(mel, mel[:, :, :0])
    stream, out, at = tiny_decoder.vocoder(), [], 0
    for size in (*sizes, 120):
        out.append(stream.push(mel[:, :, at : at + size], mel[:, :, at + size :]))
        at += size
    assert (torch.cat(out) - whole).abs().max() < 1e-5


def decoder_like(decoder: Glm4VoiceDecoder, **options) -> Glm4VoiceDecoder:
    stream = StreamOptions(**options)
    return Glm4VoiceDecoder(decoder.flow, decoder.hift, decoder.solver, stream)


def streamed(decoder: Glm4VoiceDecoder, tokens: torch.Tensor, piece: int) -> list[torch.Tensor]:
    stream = decoder.stream()
    return [*(stream.push(part) for part in tokens.split(piece)), stream.finish()]


def test_stream_depends_on_tokens_alone_and_loses_nothing(tiny_decoder) -> None:
    tokens = codes(97)
    outs = [torch.cat(streamed(tiny_decoder, tokens, piece)) for piece in (1, 13, 97)]
    assert len(outs[0]) == frames_before(97) * 256
    for out in outs[1:]:
        assert torch.equal(out, outs[0])


def test_every_chunk_gives_all_but_the_held_frames(tiny_decoder) -> None:
    decoder = decoder_like(tiny_decoder, plan_tokens=(10,), hold_frames=34)
    stream, total = decoder.stream(), 0
    for number, part in enumerate(codes(120).split(10), 1):
        total += len(stream.push(part))
        assert total == (frames_before(10 * number) - 34) * 256
    assert total + len(stream.finish()) == frames_before(120) * 256


@pytest.mark.parametrize(
    "options",
    [
        {"window_tokens": 0},
        {"window_tokens": 3, "plan_tokens": (1,)},
        {"hold_frames": 0},
        {"hold_frames": 200, "plan_tokens": (3,)},
    ],
)
def test_odd_windows_and_holds_still_give_every_frame(tiny_decoder, options) -> None:
    out = torch.cat(streamed(decoder_like(tiny_decoder, **options), codes(31), 9))
    assert len(out) == frames_before(31) * 256
    assert torch.isfinite(out).all()


def test_one_chunk_stream_is_near_offline(tiny_decoder) -> None:
    """Only the rounding of the frame index differs: the same mel but for some token edges."""
    tokens = codes(15)
    stream = decoder_like(tiny_decoder, plan_tokens=(15,), hold_frames=0).stream()
    out = torch.cat([stream.push(tokens), stream.finish()])
    whole = tiny_decoder.decode(tokens)
    assert out.shape == whole.shape


def token_places(count: int, hold_frames: int) -> list[int]:
    """Return where borders lie with respect to each token: they could be at any of these."""
    return [(frames_before(n + 1) - hold_frames) * 256 for n in range(count)]


@pytest.mark.parametrize("chunk", [10, 13, 26, 52])
def test_chunk_borders_are_like_any_other_place(tiny_decoder, chunk: int) -> None:
    tokens = codes(max(100, 4 * chunk))
    parts = streamed(decoder_like(tiny_decoder, plan_tokens=(chunk,)), tokens, chunk)
    borders = torch.tensor([len(p) for p in parts]).cumsum(0).tolist()
    whole = tiny_decoder.decode(tokens)
    figures = seams.measure(torch.cat(parts), whole, borders, token_places(len(tokens), 34))
    assert len(figures.border_click) >= 3
    for kind in ("click", "jump_db", "distance_db"):
        border, other = (getattr(figures, f"{where}_{kind}") for where in ("border", "other"))
        assert border.median() <= other.quantile(0.9), kind
        assert border.max() <= 1.25 * other.max(), kind


def test_the_seam_test_hears_chunks_that_are_simply_abutted(tiny_decoder) -> None:
    tokens = codes(130)
    parts = [tiny_decoder.decode(part) for part in tokens.split(13)]
    borders = torch.tensor([len(p) for p in parts]).cumsum(0).tolist()
    whole = tiny_decoder.decode(tokens)
    figures = seams.measure(torch.cat(parts), whole, borders, token_places(130, 0))
    assert figures.border_jump_db.median() > figures.other_jump_db.quantile(0.75)


def test_decode_stream_refuses_ids_that_are_no_speech_and_keeps_its_state(tiny_decoder) -> None:
    tokens = codes(40)
    stream = tiny_decoder.stream()
    out = [stream.push(tokens[:20])]
    for wrong in (torch.tensor([3, 64]), torch.tensor([-1]), torch.tensor([0.5])):
        with pytest.raises(CodecError):
            stream.push(wrong)
    out += [stream.push(tokens[20:]), stream.finish()]
    assert torch.equal(torch.cat(out), torch.cat(streamed(tiny_decoder, tokens, 40)))
    with pytest.raises(CodecError, match="finished"):
        stream.push(tokens)


def test_an_empty_stream_gives_nothing(tiny_decoder) -> None:
    assert len(tiny_decoder.stream().finish()) == 0
    assert len(tiny_decoder.decode(torch.zeros(0, dtype=torch.int64))) == 0
