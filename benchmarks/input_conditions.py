"""How the shipped assistant hears the recordings that people have: quiet, clipped, telephone, long.

    python -m benchmarks.input_conditions [-b BUNDLE] [-q QUESTIONS.txt] [--voices own,espeak,flite]

Each question is spoken by each voice (the assistant's own; espeak-ng and flite where they are
installed), damaged in each of the ways of `CONDITIONS`, written to a file, read back as
`ttt-assistant answer` reads it, and counted as right if the model writes down the question's words.
The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from ttt_ref.errors import TttError
from ttt_runtime.audio.reader import MAX_SECONDS, read_question
from ttt_runtime.cli.assistant_run import SHIPPED
from ttt_runtime.dialogue.assistant import Assistant, AudioPart, Reply

Audio = NDArray[np.float32]
RATE_HZ: Final = 16_000
ROOT: Final = Path(__file__).resolve().parent.parent


def _noise(samples: int, level_db: float, seed: int = 5) -> Audio:
    """Return white noise [T] of a level in dB of full scale."""
    drawn = np.random.default_rng(seed).standard_normal(samples, dtype=np.float32)
    return drawn * np.float32(10 ** (level_db / 20))


def _seconds(seconds: float, level_db: float = -70.0) -> Audio:
    """Return a room's silence: white noise, 70 dB below full scale unless said otherwise."""
    return _noise(round(seconds * RATE_HZ), level_db)


def _telephone(audio: Audio) -> Audio:
    """Return what a telephone leaves of audio [T]: 300 to 3,400 Hz, 8 bit by the mu law."""
    narrow = soxr.resample(audio, RATE_HZ, 8000)
    spectrum = np.fft.rfft(narrow)
    hz = np.fft.rfftfreq(len(narrow), 1 / 8000)
    spectrum[(hz < 300) | (hz > 3400)] = 0
    narrow = np.fft.irfft(spectrum, len(narrow)).clip(-1, 1)
    steps = np.round(np.sign(narrow) * np.log1p(255 * np.abs(narrow)) / np.log(256) * 127) / 127
    decoded: Audio = (np.sign(steps) * np.expm1(np.abs(steps) * np.log(256)) / 255).astype(
        np.float32
    )
    return decoded


def _write(path: Path, audio: Audio, rate_hz: int = RATE_HZ, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, audio, rate_hz, subtype=subtype)
    return path


def _mp3(folder: Path, audio: Audio, level: float) -> Path:
    path = folder / "x.mp3"
    soundfile.write(path, audio, RATE_HZ, bitrate_mode="CONSTANT", compression_level=level)
    return path


# Name -> writes a damaged copy of audio [T] at 16 kHz into a folder.
CONDITIONS: Final[dict[str, Callable[[Path, Audio], Path]]] = {
    "as it is": lambda f, a: _write(f / "x.wav", a),
    "telephone_8k (rate only)": lambda f, a: _write(
        f / "x.wav", soxr.resample(a, RATE_HZ, 8000), 8000
    ),
    "telephone (band, mu law)": lambda f, a: _write(f / "x.wav", _telephone(a), 8000),
    "mp3_32k": lambda f, a: _mp3(f, a, 0.842),
    "mp3_16k": lambda f, a: _mp3(f, a, 0.947),
    "8 bit": lambda f, a: _write(f / "x.wav", a, subtype="PCM_U8"),
    "quiet_-40dB": lambda f, a: _write(f / "x.wav", a * np.float32(10 ** (-26 / 20))),
    "quiet_-55dB": lambda f, a: _write(f / "x.wav", a * np.float32(10 ** (-41 / 20))),
    "clipped_x4": lambda f, a: _write(f / "x.wav", (a * 4).clip(-1, 1)),
    "clipped_x20": lambda f, a: _write(f / "x.wav", (a * 20).clip(-1, 1)),
    "offset_0.2": lambda f, a: _write(f / "x.wav", (a * 0.5 + 0.2).clip(-1, 1)),
    "hum_50Hz": lambda f, a: _write(
        f / "x.wav", a + np.float32(0.05) * np.sin(np.arange(len(a)) * 0.01963).astype(np.float32)
    ),
    "lead_10s": lambda f, a: _write(f / "x.wav", np.concatenate([np.zeros(160_000, "f4"), a])),
    "lead_10s (room)": lambda f, a: _write(f / "x.wav", np.concatenate([_seconds(10), a])),
    "lead_10s (noisy room)": lambda f, a: _write(
        f / "x.wav", np.concatenate([_seconds(10), a]) + _noise(160_000 + len(a), -50)
    ),
    "after_10s": lambda f, a: _write(f / "x.wav", np.concatenate([a, np.zeros(160_000, "f4")])),
    "after_10s (room)": lambda f, a: _write(f / "x.wav", np.concatenate([a, _seconds(10)])),
    "10 s on both sides": lambda f, a: _write(
        f / "x.wav", np.concatenate([_seconds(10), a, _seconds(10)])
    ),
    "inverted_stereo": lambda f, a: _write(f / "x.wav", np.stack([a, -a], 1)),
    "one of two channels": lambda f, a: _write(f / "x.wav", np.stack([a, 0 * a], 1)),
    "late second channel": lambda f, a: _write(f / "x.wav", np.stack([a, np.roll(a, 12)], 1)),
    "twice (no pause)": lambda f, a: _write(f / "x.wav", np.concatenate([a, a])),
    "twice (0.4 s pause)": lambda f, a: _write(f / "x.wav", np.concatenate([a, _seconds(0.4), a])),
    "twice (1 s pause)": lambda f, a: _write(f / "x.wav", np.concatenate([a, _seconds(1), a])),
    "click before": lambda f, a: _write(
        f / "x.wav", np.concatenate([_seconds(0.5), _click(), _seconds(2), a])
    ),
}


def _click() -> Audio:
    return (_noise(320, -6) * np.hanning(320)).astype(np.float32)


def spoken(text: str, voice: str, assistant: Assistant, folder: Path) -> Audio | None:
    """Return a text spoken by a voice, float32 [T] at 16 kHz; None if its program is missing."""
    if voice == "own":
        parts = [p.audio for p in assistant.speak(text) if isinstance(p, AudioPart)]
        return np.concatenate(parts)
    path = folder / "spoken.wav"
    commands = {
        "espeak": ["espeak-ng", "-v", "en-us", "-s", "150", "-w", str(path), text],
        "espeak-uk": ["espeak-ng", "-v", "en-gb", "-s", "150", "-w", str(path), text],
        "flite": ["flite", "-voice", "slt", "-t", text, "-o", str(path)],
        "flite-rms": ["flite", "-voice", "rms", "-t", text, "-o", str(path)],
    }
    if shutil.which(commands[voice][0]) is None:
        return None
    subprocess.run(commands[voice], check=True, capture_output=True)
    audio, rate_hz = soundfile.read(path, dtype="float32")
    return np.asarray(soxr.resample(audio, rate_hz, RATE_HZ), np.float32)


def _recordings(
    assistant: Assistant, questions: list[str], voices: list[str], folder: Path
) -> Iterator[tuple[str, str, Audio]]:
    audio, _ = soundfile.read(ROOT / "samples" / "question.wav", dtype="float32")
    yield "sample", "tell me the capital of france", audio
    for voice in voices:
        for text in questions:
            made = spoken(text, voice, assistant, folder)
            if made is not None:
                yield voice, text, made


def heard(assistant: Assistant, path: Path) -> str:
    """Return what the assistant writes down of a file, or its error in angle brackets."""
    assert assistant.tokenizer is not None
    try:
        recording = read_question(path, assistant.tokenizer, max_seconds=MAX_SECONDS)
        *_, last = assistant.answer(recording.audio, speak=False)
    except TttError as error:
        return f"<{error}>"
    assert isinstance(last, Reply)
    return last.heard


def main() -> None:
    """Print a line for each condition, and the wrong ones below it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-b", "--bundle", type=Path, default=SHIPPED)
    parser.add_argument("-q", "--questions", type=Path, default=ROOT / "samples" / "questions.txt")
    parser.add_argument("--voices", default="own,espeak,flite,flite-rms")
    parser.add_argument("--only", help="conditions whose name holds this")
    parser.add_argument("--bare", action="store_true", help="without the input chain")
    parser.add_argument("--quietly", action="store_true", help="leave out what was misheard")
    options = parser.parse_args()
    assistant = Assistant.from_bundle(options.bundle)
    questions = options.questions.read_text(encoding="utf-8").split("\n")
    questions = [line.strip() for line in questions if line.strip()]
    results: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.bare:
            assistant.input_chain = None
        recordings = list(_recordings(assistant, questions, options.voices.split(","), folder))
        # A voice that the model mishears undamaged tells nothing of the damage.
        recordings = [
            r for r in recordings if heard(assistant, CONDITIONS["as it is"](folder, r[2])) == r[1]
        ]
        print(f"{len(recordings)} recordings that are heard right undamaged")
        for condition, damage in CONDITIONS.items():
            if options.only and options.only not in condition:
                continue
            wrong = []
            for voice, text, audio in recordings:
                got = heard(assistant, damage(folder, audio))
                if got != text:
                    wrong.append(f"    {voice}: {text!r} heard as {got!r}")
            results[condition] = [len(recordings) - len(wrong), len(recordings)]
            print(f"{condition:28} {len(recordings) - len(wrong):3} of {len(recordings)}")
            if not options.quietly:
                print("\n".join(wrong[:4]) if wrong else "", end="\n" if wrong else "")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
