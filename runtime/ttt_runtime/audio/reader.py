"""Sound files in: any format, rate and number of channels that libsndfile reads, within limits.

A file is read in pieces of at most one second, mixed to one channel and resampled as it comes (or
as the speech tokenizer asks), so memory follows the limit and never the file.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from ttt_ref.errors import AudioError
from ttt_ref.package import install_command
from ttt_runtime.audio.channels import ChannelSums
from ttt_runtime.audio.headers import RawFormat, without_length

if TYPE_CHECKING:
    from ttt_runtime.codec.base import SpeechTokenizer

Audio = NDArray[np.float32]
# Audio of another rate from one channel [T] and its rate in Hz.
Hear = Callable[[Audio, int], Audio]

MAX_SECONDS: Final = 60.0
# Bytes taken from stdin at most: a minute of 8 channels at 96 kHz in 32 bit is 184 MB.
MAX_STDIN_BYTES: Final = 256 * 2**20
MIN_RATE_HZ: Final = 1000
MAX_RATE_HZ: Final = 768_000
MAX_CHANNELS: Final = 64
# Samples of all channels: in one file, and in memory at once (beside the one channel kept).
MAX_SAMPLES: Final = 1 << 30
_PIECE_SAMPLES: Final = 1 << 20
# Peak below which nothing was said: -60 dB of full scale, after removing a constant offset.
SILENCE_PEAK: Final = 1e-3


@dataclass(frozen=True)
class Recording:
    """Audio float32 [T] in one channel at `sample_rate_hz`, and what it was read from.

    `notes`: what a user should know of how it was read.
    """

    audio: Audio
    sample_rate_hz: int
    source: str
    source_rate_hz: int
    source_channels: int
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return len(self.audio) / self.sample_rate_hz

    @property
    def is_silent(self) -> bool:
        """True if nothing above -60 dB of full scale is in it."""
        return is_silent(self.audio)


def is_silent(audio: Audio) -> bool:
    """Tell whether audio [T] holds nothing above -60 dB of full scale, apart from an offset."""
    if len(audio) == 0:
        return True
    return bool(np.abs(audio - np.median(audio)).max() < SILENCE_PEAK)


def read_question(
    source: str | os.PathLike[str],
    tokenizer: SpeechTokenizer,
    *,
    max_seconds: float = MAX_SECONDS,
    raw: RawFormat | None = None,
) -> Recording:
    """Read a sound file the way a tokenizer wants to hear it; see `read_audio`.

    A tokenizer with a method `hear` brings audio to its rate itself, as it was trained.
    """
    hear: Hear | None = getattr(tokenizer, "hear", None)
    return read_audio(source, tokenizer.sample_rate_hz, max_seconds=max_seconds, hear=hear, raw=raw)


def read_audio(
    source: str | os.PathLike[str],
    sample_rate_hz: int,
    *,
    max_seconds: float = MAX_SECONDS,
    hear: Hear | None = None,
    raw: RawFormat | None = None,
) -> Recording:
    """Read a sound file, mixed to one channel and resampled to `sample_rate_hz`.

    Where the channels cancel in the mix the loudest is taken, and a WAV file whose recorder died
    before it wrote the length is read to its end; `Recording.notes` tells both.

    Args:
        source: path, or `-` for stdin.
        sample_rate_hz: rate wanted.
        max_seconds: longest audio that is accepted.
        hear: makes audio [T'] of that rate from the first channel [T] and the file's rate, in
            place of mixing and resampling.
        raw: the input is samples without a header, in this format.

    Raises:
        AudioError: no sound file, no samples, NaN or infinite samples, or too long.
        OSError: the file cannot be opened.
    """
    if str(source) == "-":
        with tempfile.TemporaryFile() as copy:
            _copy_stdin(copy)
            return _read(copy, "stdin", sample_rate_hz, max_seconds, hear, raw)
    path = Path(source)
    if path.is_dir():
        raise AudioError(f"{path} is a folder; give a sound file")
    with path.open("rb") as file:  # opened by us: libsndfile's own messages name no reason
        if not file.seekable():
            with tempfile.TemporaryFile() as copy:
                _copy(file, copy, str(path))
                return _read(copy, str(path), sample_rate_hz, max_seconds, hear, raw)
        return _read(file, str(path), sample_rate_hz, max_seconds, hear, raw)


def read_sound(
    file: BinaryIO | Any,
    name: str,
    tokenizer: SpeechTokenizer,
    *,
    max_seconds: float = MAX_SECONDS,
) -> Recording:
    """Read an opened file that can be sought in; see `read_question`. `name` is for errors."""
    hear: Hear | None = getattr(tokenizer, "hear", None)
    return _read(file, name, tokenizer.sample_rate_hz, max_seconds, hear)


def _copy_stdin(copy: Any) -> None:
    if sys.stdin is None or sys.stdin.isatty():
        raise AudioError("stdin is a terminal; pipe a sound file into it, or give a path")
    _copy(sys.stdin.buffer, copy, "stdin")


def _copy(stream: Any, copy: Any, name: str) -> None:
    left = MAX_STDIN_BYTES
    while left > 0 and (piece := stream.read(min(left, 1 << 20))):
        copy.write(piece)
        left -= len(piece)
    if left == 0 and stream.read(1):
        raise AudioError(f"{name} gives more than {MAX_STDIN_BYTES >> 20} MiB; cut it")
    if copy.tell() == 0:
        raise AudioError(f"{name} is empty; expected a sound file")
    copy.seek(0)


def _read(
    file: BinaryIO | Any,
    name: str,
    rate_hz: int,
    max_seconds: float,
    hear: Hear | None,
    raw: RawFormat | None = None,
) -> Recording:
    notes: tuple[str, ...] = ()
    with contextlib.ExitStack() as stack:
        if raw is None and (mended := without_length(file)) is not None:
            file = stack.enter_context(mended)
            notes = (f"{name} says that it holds no samples; it is read to its end",)
        else:
            file.seek(0)
        sound = stack.enter_context(_opened(file, name, raw))
        source_hz = sound.samplerate
        if not MIN_RATE_HZ <= source_hz <= MAX_RATE_HZ:
            raise AudioError(
                f"{name} has a sample rate of {source_hz} Hz; expected {MIN_RATE_HZ} .. "
                f"{MAX_RATE_HZ} Hz"
            )
        if sound.channels > MAX_CHANNELS:
            raise AudioError(f"{name} has {sound.channels} channels; expected up to {MAX_CHANNELS}")
        limit = min(int(max_seconds * source_hz), MAX_SAMPLES // sound.channels)
        if sound.frames > limit and sound.frames < 2**62:  # a pipe's header may say "unknown"
            raise AudioError(_too_long(name, sound.frames / source_hz, limit / source_hz))
        sums = ChannelSums(sound.channels)
        channel = 0 if hear is not None else None
        resample_hz = source_hz if hear is not None else rate_hz

        def read(channel: int | None) -> list[Audio]:
            try:
                return _pieces(sound, name, resample_hz, limit, channel, sums)
            except soundfile.SoundFileError as error:
                reason = _reason(error)
                raise AudioError(f"{name} breaks off or is damaged ({reason})") from None

        pieces = read(channel)
        if channel is None and (better := sums.better_alone()) is not None:
            sound = stack.enter_context(_opened(_rewound(file), name, raw))
            pieces = read(better)
            notes += (
                f"the {sound.channels} channels of {name} cancel each other; "
                f"channel {better + 1} is heard",
            )
        if not pieces:
            raise AudioError(f"{name} holds no samples; record it again")
        audio = np.concatenate(pieces)
        if hear is not None:
            audio = hear(audio, source_hz)
        return Recording(audio, rate_hz, name, source_hz, sound.channels, notes)


def _rewound(file: Any) -> Any:
    file.seek(0)
    return file


def _opened(file: Any, name: str, raw: RawFormat | None) -> Any:
    options = {} if raw is None else raw.options()
    try:
        return soundfile.SoundFile(file, **options)
    except (soundfile.SoundFileError, TypeError) as error:
        raise AudioError(
            f"{name} is not a sound file that can be read ({_reason(error)}); "
            "expected wav, flac, ogg, mp3 or another format of libsndfile"
        ) from None


def _pieces(
    sound: Any,
    name: str,
    rate_hz: int,
    limit: int,
    channel: int | None,
    sums: ChannelSums,
) -> list[Audio]:
    """Return one channel, or with None their mean, at the wanted rate."""
    source_hz = sound.samplerate
    resampler = None
    if source_hz != rate_hz:
        resampler = soxr.ResampleStream(source_hz, rate_hz, 1, dtype="float32", quality="HQ")
    pieces: list[Audio] = []
    seen = 0
    frames = max(1, min(source_hz, _PIECE_SAMPLES // sound.channels))
    while len(block := sound.read(frames, dtype="float32", always_2d=True)):
        seen += len(block)
        if seen > limit:
            raise AudioError(_too_long(name, None, limit / source_hz))
        if not np.isfinite(block).all():
            raise AudioError(f"{name} holds NaN or infinite samples; it is damaged, export it anew")
        if channel is None:
            sums.push(block)
            # float64: the sum of full-scale 32-bit float channels stays finite.
            mono = block.mean(axis=1, dtype=np.float64).astype(np.float32)
        else:
            mono = block[:, channel].copy()
        pieces.append(mono if resampler is None else resampler.resample_chunk(mono))
    if resampler is not None and seen:
        pieces.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    return pieces


def _too_long(name: str, seconds: float | None, max_seconds: float) -> str:
    length = "longer" if seconds is None else f"{seconds:.0f} s long"
    return (
        f"{name} is {length}; at most {max_seconds:.0f} s are accepted, cut it or raise "
        "--max-seconds"
    )


def _reason(error: Exception) -> str:
    text = getattr(error, "error_string", None) or str(error)
    return str(text).strip().rstrip(".").replace("\n", " ")


def require_output_device() -> Any:
    """Return the sounddevice module if it can play; AudioError if not."""
    try:
        import sounddevice  # only --play needs it
    except (ImportError, OSError):
        raise AudioError(
            f"playing needs sounddevice and PortAudio; run: {install_command('mic')}, "
            "or leave out --play"
        ) from None
    try:
        sounddevice.query_devices(kind="output")
    except Exception:  # sounddevice.PortAudioError and ValueError, by version
        raise AudioError("this machine has no audio output device; leave out --play") from None
    return sounddevice
