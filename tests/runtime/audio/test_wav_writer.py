"""The WAV writer: whole files only, nothing left behind, pipes at once."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ttt_ref.errors import AudioError
from ttt_runtime.audio.wav_writer import StreamingWavWriter, pcm16

RAMP = np.linspace(-1, 1, 3001, dtype=np.float32)


def test_file_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with StreamingWavWriter(path, 22050) as writer:
        for piece in np.array_split(RAMP, 7):
            writer.write(piece)
            assert not path.exists()  # it appears when it is whole
        assert writer.seconds == pytest.approx(3001 / 22050)
    audio, rate_hz = soundfile.read(path, dtype="float32")
    assert rate_hz == 22050
    np.testing.assert_allclose(audio, RAMP, atol=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_loud_and_broken_samples_are_clipped() -> None:
    samples = np.frombuffer(pcm16(np.array([9, -9, np.nan, np.inf], np.float32)), "<i2")
    assert samples.tolist() == [32767, -32767, 0, 32767]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_interruption_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"the old one")
    with pytest.raises(error):
        _write_and_fail(path, error)
    assert path.read_bytes() == b"the old one"
    assert len(list(tmp_path.iterdir())) == 1


def _write_and_fail(path: Path, error: type[BaseException]) -> None:
    with StreamingWavWriter(path, 16000) as writer:
        writer.write(RAMP)
        raise error


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="is a folder"):
        StreamingWavWriter(tmp_path, 16000)
    with pytest.raises(OSError, match=r"a\.wav") as caught:
        StreamingWavWriter(tmp_path / "missing" / "a.wav", 16000)
    assert ".part" not in str(caught.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        StreamingWavWriter(tmp_path / "file" / "a.wav", 16000)


def test_links_are_followed_and_rights_are_usual(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.wav").symlink_to(tmp_path / "real" / "a.wav")
    with StreamingWavWriter(tmp_path / "link.wav", 16000) as writer:
        writer.write(RAMP)
    assert (tmp_path / "link.wav").is_symlink()
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "real" / "a.wav").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_device_is_written_to_not_replaced() -> None:
    with StreamingWavWriter("/dev/null", 16000) as writer:
        writer.write(RAMP)
    assert not Path("/dev/null").is_file()


def test_stdout_is_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdout:
        buffer = io.BytesIO()

        @staticmethod
        def isatty() -> bool:
            return False

    monkeypatch.setattr(sys, "stdout", Stdout)
    with StreamingWavWriter("-", 16000) as writer:
        writer.write(RAMP)
    audio, _ = soundfile.read(io.BytesIO(Stdout.buffer.getvalue()), dtype="float32")
    np.testing.assert_allclose(audio, RAMP, atol=1e-4)
    monkeypatch.setattr(Stdout, "isatty", staticmethod(lambda: True))
    with pytest.raises(AudioError, match="terminal"):
        StreamingWavWriter("-", 16000)
