"""Sound files in: everything readable is read, everything else is one line."""

from __future__ import annotations

import io
import os
import resource
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.runtime.processes import environment
from ttt_ref.errors import AudioError
from ttt_runtime.audio.reader import is_silent, read_audio


def tone(seconds: float, rate_hz: int, hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate_hz)) / rate_hz)).astype("f4")


def refused(path: Path | str, word: str, **options: float) -> None:
    with pytest.raises(AudioError, match=word) as caught:
        read_audio(path, 16000, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rate_hz", "channels", "suffix", "subtype"),
    [
        (16000, 1, "wav", "PCM_16"),
        (8000, 1, "wav", "ULAW"),
        (44100, 2, "flac", "PCM_24"),
        (48000, 1, "ogg", "VORBIS"),
        (22050, 1, "mp3", "MPEG_LAYER_III"),
        (96000, 8, "wav", "FLOAT"),
        (192000, 1, "w64", "DOUBLE"),
        (11025, 2, "aiff", "PCM_U8"),
    ],
)
def test_any_rate_channels_and_format(
    tmp_path: Path, rate_hz: int, channels: int, suffix: str, subtype: str
) -> None:
    path = tmp_path / f"in.{suffix}"
    data = np.repeat(tone(1.5, rate_hz)[:, None], channels, axis=1)
    if suffix == "aiff":
        subtype = "PCM_16"
    soundfile.write(path, data, rate_hz, subtype=subtype)
    heard = read_audio(path, 16000)
    assert heard.audio.dtype == np.float32
    assert heard.sample_rate_hz == 16000
    assert (heard.source_rate_hz, heard.source_channels) == (rate_hz, channels)
    assert abs(heard.seconds - 1.5) < 0.06  # mp3 pads
    middle = heard.audio[4000:20000]
    spectrum = np.abs(np.fft.rfft(middle))
    assert abs(np.argmax(spectrum) * 16000 / len(middle) - 440) < 2
    assert abs(np.abs(middle).max() - 0.5) < 0.05
    assert not heard.is_silent


def test_resampling_does_not_depend_on_the_pieces(tmp_path: Path) -> None:
    """The file is read by the second; a tone must run through the seams."""
    path = tmp_path / "in.wav"
    soundfile.write(path, tone(3.3, 44100), 44100, subtype="FLOAT")
    got = read_audio(path, 16000).audio
    np.testing.assert_allclose(got[200:-200], tone(3.3, 16000)[200 : len(got) - 200], atol=2e-3)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left = tone(0.5, 16000)
    soundfile.write(tmp_path / "a.wav", np.stack([left, left / 2], 1), 16000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav", 16000).audio, left * 0.75, atol=1e-6)
    full = np.full((1000, 8), 3e38, np.float32)  # their sum is no float32
    soundfile.write(tmp_path / "b.wav", full, 16000, subtype="FLOAT")
    assert np.isfinite(read_audio(tmp_path / "b.wav", 16000).audio).all()


def test_what_is_no_sound_file(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("these are words, not sounds\n" * 50)
    (tmp_path / "empty.wav").write_bytes(b"")
    good = io.BytesIO()
    soundfile.write(good, tone(0.1, 16000), 16000, format="WAV")
    for size in (3, 11, 20, 35):
        (tmp_path / "cut.wav").write_bytes(good.getvalue()[:size])
        refused(tmp_path / "cut.wav", "is not a sound file")
    refused(tmp_path / "text.wav", "is not a sound file")
    refused(tmp_path / "empty.wav", "is not a sound file")
    refused(tmp_path, "is a folder")
    with pytest.raises(FileNotFoundError):
        read_audio(tmp_path / "missing.wav", 16000)


def test_samples_that_are_missing_are_not_invented(tmp_path: Path) -> None:
    """A header that promises more than there is: what is there is heard."""
    good = io.BytesIO()
    soundfile.write(good, tone(1.0, 16000), 16000, format="WAV")
    (tmp_path / "cut.wav").write_bytes(good.getvalue()[:16044])
    assert read_audio(tmp_path / "cut.wav", 16000).seconds == 0.5


def test_no_samples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 16000)
    refused(tmp_path / "a.wav", "no samples")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    data = tone(2.5, 16000)
    data[-1] = value
    soundfile.write(tmp_path / "a.wav", data, 16000, subtype="FLOAT")
    refused(tmp_path / "a.wav", "NaN or infinite")


def test_rates_that_cannot_be(tmp_path: Path) -> None:
    for rate_hz in (1, 999, 1_000_000):
        soundfile.write(tmp_path / "a.wav", tone(1, 2000), rate_hz)
        refused(tmp_path / "a.wav", f"sample rate of {rate_hz} Hz")


def test_length_limit(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(2.0, 8000), 8000)
    refused(tmp_path / "a.wav", "2 s long; at most 1 s", max_seconds=1.0)
    assert read_audio(tmp_path / "a.wav", 16000, max_seconds=2.0).seconds == pytest.approx(2.0)


def test_a_long_file_takes_no_memory(tmp_path: Path) -> None:
    """10 minutes of 8 channels at 48 kHz are 922 MB as float32; it is refused in 400 MB."""
    frames = 600 * 48000
    format_chunk = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 8, 48000, 48000 * 8, 8, 8)
    head = struct.pack("<4sI4s", b"RIFF", 36 + frames * 8, b"WAVE") + format_chunk
    with (tmp_path / "long.wav").open("wb") as file:
        file.write(head + struct.pack("<4sI", b"data", frames * 8))
        file.truncate(44 + frames * 8)  # a hole: it costs no disk
    program = (
        "from ttt_runtime.audio.reader import read_audio\n"
        "from ttt_ref.errors import AudioError\n"
        f"try: read_audio({str(tmp_path / 'long.wav')!r}, 16000)\n"
        "except AudioError as error: print(error)\n"
    )
    limit = 400 * 2**20

    def cap() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment(OPENBLAS_NUM_THREADS="1"),
        preexec_fn=cap,
    )
    assert "600 s long; at most 60 s" in result.stdout, result.stderr


def test_a_lying_header_does_not_get_past_the_limit(tmp_path: Path) -> None:
    """A streamed WAV says 0xFFFFFFFF bytes; what counts is what comes."""
    good = io.BytesIO()
    soundfile.write(good, tone(2.0, 16000), 16000, format="WAV")
    data = bytearray(good.getvalue())
    data[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(data)
    assert read_audio(tmp_path / "a.wav", 16000).seconds == pytest.approx(2.0)
    refused(tmp_path / "a.wav", "at most 1 s", max_seconds=1.0)


def test_stdin_and_pipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = io.BytesIO()
    soundfile.write(sound, tone(0.5, 24000), 24000, format="WAV")

    class Stdin:
        buffer = io.BytesIO(sound.getvalue())

        @staticmethod
        def isatty() -> bool:
            return False

    monkeypatch.setattr(sys, "stdin", Stdin)
    assert read_audio("-", 16000).seconds == pytest.approx(0.5, abs=0.01)
    refused("-", "stdin is empty")
    Stdin.buffer = io.BytesIO(b"no sound" * 100)
    refused("-", "stdin is not a sound file")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = os.fork()
    if writer == 0:
        pipe.write_bytes(sound.getvalue())
        os._exit(0)
    assert read_audio(pipe, 16000).seconds == pytest.approx(0.5, abs=0.01)
    os.waitpid(writer, 0)


def test_silence() -> None:
    assert is_silent(np.zeros(16000, np.float32))
    assert is_silent(np.full(16000, 0.3, np.float32))  # an offset is no sound
    assert is_silent(np.zeros(0, np.float32))
    assert not is_silent(tone(0.1, 16000) * 0.01)
