"""Raw formats and files, in and out."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import soundfile

from ttt_runtime.server import g711
from ttt_runtime.server.audio_formats import (
    FILE_FORMATS,
    FileEncoder,
    InputAudio,
    OutputAudio,
    StreamFormat,
    parse_file_format,
)
from ttt_runtime.server.errors import ApiError
from ttt_runtime.server.pcm import PcmInput

PCM = StreamFormat("audio/pcm", 24000)
TONE = (0.5 * np.sin(np.arange(32000) * 2 * np.pi * 440 / 16000)).astype(np.float32)


@pytest.mark.parametrize("law", ["pcmu", "pcma"])
def test_g711_is_that_of_the_standard_library(law: g711.Law) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        audioop = pytest.importorskip("audioop")  # gone in Python 3.13
    codes = bytes(range(256))
    expected = np.frombuffer(getattr(audioop, f"{law[3]}law2lin")(codes, 2), "<i2")
    np.testing.assert_array_equal(g711.decode(codes, law) * 32768, expected)
    samples = np.arange(-32768, 32768, 7, dtype=np.int16)
    wanted = getattr(audioop, f"lin2{law[3]}law")(samples.astype("<i2").tobytes(), 2)
    got = g711.encode(samples.astype(np.float32) / 32767, law)
    difference = np.frombuffer(got, np.uint8) != np.frombuffer(wanted, np.uint8)
    assert difference.mean() < 0.01  # full scale is 32767 here, 32768 there


@pytest.mark.parametrize("law", ["pcmu", "pcma"])
def test_g711_codes_survive_a_round_trip(law: g711.Law) -> None:
    codes = np.arange(256, dtype=np.uint8)
    sound = g711.decode(codes.tobytes(), law)
    again = g711.decode(g711.encode(sound, law), law)
    np.testing.assert_allclose(again, sound, atol=2e-2, rtol=0.04)


@pytest.mark.parametrize("sizes", [[1, 3, 7, 1000], [4800], [999, 1]])
def test_pieces_of_any_size_make_the_same_sound(sizes: list[int]) -> None:
    data = (TONE * 32767).astype("<i2").tobytes()
    whole = InputAudio(PCM, 16000).push(data)
    stream, pieces, start, turn = InputAudio(PCM, 16000), [], 0, 0
    while start < len(data):
        size = sizes[turn % len(sizes)]
        pieces.append(stream.push(data[start : start + size]))
        start, turn = start + size, turn + 1
    got = np.concatenate(pieces)
    n = min(len(got), len(whole))
    assert abs(len(got) - len(whole)) < 2000
    np.testing.assert_allclose(got[:n], whole[:n], atol=1e-4)


def test_output_has_every_sample_once() -> None:
    stream = OutputAudio(PCM, 16000)
    data = b"".join(stream.push(TONE[i : i + 500]) for i in range(0, len(TONE), 500))
    data += stream.finish()
    assert len(data) == 2 * len(TONE) * 24000 // 16000


@pytest.mark.parametrize("kind", list(FILE_FORMATS))
def test_files_can_be_read_by_others_though_they_left_in_pieces(kind: str) -> None:
    """A length written before the end made readers stop at half of an mp3."""
    encoder = FileEncoder(parse_file_format(kind), 16000)
    pieces = [encoder.push(TONE[i : i + 3000]) for i in range(0, len(TONE), 3000)]
    data = b"".join([*pieces, encoder.finish()])
    if kind == "pcm":
        sound, rate = np.frombuffer(data, "<i2") / 32768, 24000
    else:
        sound, rate = soundfile.read(io.BytesIO(data))
    assert rate == 24000
    assert abs(len(sound) / 24000 - len(TONE) / 16000) < 0.15
    spectrum = np.abs(np.fft.rfft(sound[4800:28800]))
    assert np.argmax(spectrum) == pytest.approx(440, abs=2)
    if kind in ("wav", "pcm", "mp3"):
        assert sum(map(bool, pieces)) > 3, "it must not wait for the end"


def test_unknown_formats_are_refused_in_one_line() -> None:
    for value in ("aac", None, 5, ["mp3"]):
        with pytest.raises(ApiError, match="expected one of mp3, opus, flac, wav, pcm"):
            parse_file_format(value)
    for form in ({"type": "audio/opus"}, {"rate": 24000}, 7, {"type": "audio/pcm", "rate": True}):
        with pytest.raises(ApiError):
            StreamFormat.parse(form, "format")
    assert StreamFormat.parse("g711_alaw", "format") == StreamFormat("audio/pcma", 8000)


@pytest.mark.parametrize(("width", "channels"), [(1, 1), (2, 1), (2, 2), (4, 3)])
def test_wyomings_pcm_in_any_width(width: int, channels: int) -> None:
    kind = {1: "u1", 2: "<i2", 4: "<i4"}[width]
    scaled = TONE[:, None] * (2 ** (8 * width - 1) - 1) + (128 if width == 1 else 0)
    data = np.repeat(scaled, channels, axis=1).astype(kind).tobytes()
    stream = PcmInput.of({"rate": 16000, "width": width, "channels": channels}, 16000)
    got = np.concatenate([stream.push(data[:101]), stream.push(data[101:])])
    np.testing.assert_allclose(got, TONE, atol=0.02)
