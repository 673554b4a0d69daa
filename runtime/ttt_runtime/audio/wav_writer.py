"""A WAV file that grows as the answer is spoken and appears under its name only when whole."""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from ttt_ref.errors import AudioError
from ttt_ref.outputs import Staged
from ttt_ref.streams import stdout_is_closed

_HEADER_BYTES: Final = 44
# Length in the header of a stream whose end is not known yet; players read to the end of it.
_UNKNOWN: Final = 0xFFFFFFFF


def pcm16(audio: NDArray[np.float32]) -> bytes:
    """Return audio [T] (full scale 1.0, louder is clipped) as 16-bit little-endian PCM."""
    scaled = np.clip(np.nan_to_num(audio), -1.0, 1.0) * 32767.0
    samples: NDArray[np.int16] = np.rint(scaled).astype("<i2")
    return samples.tobytes()


def wav_header(sample_rate_hz: int, data_bytes: int | None) -> bytes:
    """Return the header of one channel of 16-bit PCM; None for a length that is not known yet."""
    data = _UNKNOWN if data_bytes is None else data_bytes
    riff = _UNKNOWN if data_bytes is None else data_bytes + _HEADER_BYTES - 8
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        riff,
        b"WAVE",
        b"fmt ",
        16,
        1,  # PCM
        1,  # channel
        sample_rate_hz,
        2 * sample_rate_hz,  # bytes a second
        2,  # bytes a frame
        16,  # bits a sample
        b"data",
        data,
    )


class StreamingWavWriter:
    """Write 16-bit mono WAV piece by piece.

        with StreamingWavWriter("answer.wav", 16000) as writer:
            writer.write(audio)

    To a path: staged (see `ttt_ref.outputs`); an exception (Ctrl-C included) leaves an older file
    of that name as it was. To `-`, a pipe or a device: straight through, with an open-ended header.

    Raises:
        OSError: the place cannot be written to. Raised at once, before any audio is made.
    """

    def __init__(self, target: str | os.PathLike[str], sample_rate_hz: int) -> None:
        self.sample_rate_hz = sample_rate_hz
        self.samples = 0
        self._staged: Staged | None = None
        if str(target) == "-":
            if stdout_is_closed():
                raise AudioError("stdout is closed; redirect it, or give a file with -o")
            if sys.stdout.isatty():
                raise AudioError("stdout is a terminal; redirect it, or give a file with -o")
            self._file: BinaryIO = sys.stdout.buffer
            self._put(wav_header(sample_rate_hz, None))
            return
        path = Path(os.path.realpath(target))
        if path.is_dir():
            raise AudioError(f"{path} is a folder; give the name of a file to write")
        if path.exists() and not path.is_file():  # a pipe or a device
            self._file = path.open("wb")
            try:
                self._put(wav_header(sample_rate_hz, None))
            except BaseException:
                self.abort()
                raise
            return
        self._staged = Staged(target)
        self._file = self._staged.path.open("wb")
        self._file.write(wav_header(sample_rate_hz, 0))

    @property
    def seconds(self) -> float:
        """Length written so far."""
        return self.samples / self.sample_rate_hz

    def __enter__(self) -> StreamingWavWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def write(self, audio: NDArray[np.float32]) -> None:
        """Append audio float32 [T]; a pipe gets it at once."""
        with self._named():
            self._put(pcm16(audio))
        self.samples += len(audio)

    def _put(self, data: bytes) -> None:
        try:
            self._file.write(data)
            if self._staged is None:
                self._file.flush()
        except BrokenPipeError:
            raise AudioError(
                f"the reader of the sound went away after {self.seconds:.2f} s of it"
            ) from None

    def close(self) -> None:
        """Finish: set the length and give the file its name."""
        if self._staged is None:
            self._file.flush()
            return
        try:
            with self._named():
                self._file.seek(0)
                self._file.write(wav_header(self.sample_rate_hz, 2 * self.samples))
                self._file.close()
            self._staged.commit()
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Remove what was written; what a pipe or a device did not take is lost."""
        if self._staged is None and self._file is sys.stdout.buffer:
            return
        # Left open it would be flushed at the end of the process, and Python 3.14 tells of errors.
        with contextlib.suppress(OSError):
            self._file.close()
        if self._staged is not None:
            self._staged.discard()

    def _named(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._staged is None else self._staged.named()
