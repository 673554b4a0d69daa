"""Reading recordings and turning them into speech tokens, by whichever codec a folder holds."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from ttt_ref.errors import AudioError, CheckpointError
from ttt_ref.prepare.layouts import Sound

# Eight bits a sample leave noise 50 dB below full scale, which costs codes; 8-bit telephone
# companding (mu-law, A-law) is finer at low levels and is taken.
EIGHT_BITS = ("PCM_U8", "PCM_S8")
SILENCE_PEAK = 1e-3  # -60 dB of full scale


class Codec(Protocol):
    """Speech tokenizers have this in common."""

    @property
    def num_codes(self) -> int:
        """Size of the code book."""
        ...

    def codes(self, audio: NDArray[np.float32], rate_hz: int) -> list[int]:
        """Return the codes of audio [T, channels] of any rate."""
        ...


@dataclass(frozen=True)
class _Codec:
    num_codes: int
    hear: Callable[[NDArray[np.float32], int], Tensor]
    encode: Callable[[Tensor], Tensor]

    def codes(self, audio: NDArray[np.float32], rate_hz: int) -> list[int]:
        with torch.inference_mode():
            found: list[int] = self.encode(self.hear(audio, rate_hz)).tolist()
        return found


def load_codec(folder: Path) -> Codec:
    """Load the speech tokenizer in a folder: GLM-4-Voice's, or the built-in one of a checkpoint.

    Raises:
        CheckpointError: no codec there, or damaged files.
        CodecError: files of a GLM-4-Voice tokenizer that cannot be used.
    """
    if not folder.is_dir():
        raise CheckpointError(f"no codec folder at {folder}; check the path")
    built_in = folder / "codec" if (folder / "codec").is_dir() else folder
    if (built_in / "tokenizer.safetensors").is_file():
        from ttt_ref.codec.builtin.checkpoint import load_tokenizer

        builtin = load_tokenizer(built_in)
        rate, count = builtin.config.sample_rate_hz, builtin.config.num_codes
        return _Codec(count, _mixed_to(rate), builtin.encode)
    released = folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder
    from ttt_ref.codec.glm4voice.codec import Glm4VoiceTokenizer
    from ttt_ref.codec.glm4voice.weights import load_tokenizer as load_released

    glm = Glm4VoiceTokenizer(load_released(released))
    return _Codec(glm.num_codes, _first_channel_to(glm.sample_rate_hz), glm.encode)


def _mixed_to(target_hz: int) -> Callable[[NDArray[np.float32], int], Tensor]:
    def hear(audio: NDArray[np.float32], rate_hz: int) -> Tensor:
        mono = audio.mean(axis=1, dtype=np.float64).astype(np.float32)
        if rate_hz != target_hz:
            mono = soxr.resample(mono, rate_hz, target_hz, quality="HQ")
        return torch.from_numpy(np.ascontiguousarray(mono, np.float32))

    return hear


def _first_channel_to(target_hz: int) -> Callable[[NDArray[np.float32], int], Tensor]:
    def hear(audio: NDArray[np.float32], rate_hz: int) -> Tensor:
        from ttt_ref.codec.glm4voice.resample import resample

        mono = torch.from_numpy(audio[:, 0].copy())
        return mono if rate_hz == target_hz else resample(mono, rate_hz, target_hz)

    return hear


def read_sound(sound: Sound, max_seconds: float) -> tuple[NDArray[np.float32], int]:
    """Return audio float32 [T, channels] and its rate.

    Raises:
        AudioError: missing, unreadable, silent, too long, of 8 bits, or not finite.
    """
    source: Any = sound.file if sound.row < 0 else _from_parquet(sound)
    if sound.row < 0 and not sound.file.is_file():
        raise AudioError(f"{sound.name} is missing")
    try:
        with soundfile.SoundFile(source) as file:
            if file.subtype in EIGHT_BITS:
                raise AudioError(f"{sound.name} has 8-bit samples; 16 or more are expected")
            if file.frames > max_seconds * file.samplerate:
                seconds = file.frames / file.samplerate
                raise AudioError(
                    f"{sound.name} is {seconds:.0f} s long; at most {max_seconds:.0f} s are taken "
                    "(--max-seconds)"
                )
            audio = file.read(dtype="float32", always_2d=True)
            rate_hz = file.samplerate
    except (soundfile.SoundFileError, TypeError) as error:
        reason = str(getattr(error, "error_string", error)).strip().rstrip(".")
        raise AudioError(f"{sound.name} is no sound file that can be read ({reason})") from None
    if not len(audio):
        raise AudioError(f"{sound.name} holds no samples")
    if not np.isfinite(audio).all():
        raise AudioError(f"{sound.name} holds samples that are not finite")
    if np.abs(audio - np.median(audio, axis=0)).max() < SILENCE_PEAK:
        raise AudioError(f"{sound.name} is silent")
    return audio, rate_hz


def _from_parquet(sound: Sound) -> io.BytesIO:
    import pyarrow.parquet

    parquet: Any = pyarrow.parquet  # has no type information
    file = parquet.ParquetFile(sound.file)
    row = sound.row
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        if row < count:
            value = file.read_row_group(group, columns=[sound.column])[sound.column][row].as_py()
            break
        row -= count
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise AudioError(f"{sound.name}: {sound.column} holds no sound (bytes of a file)")
    return io.BytesIO(content)
