"""Recordings as people have them, each with the name that reports of trouble know it by.

Every test failed before the input chain: the answer was wrong, empty, or a loop of one word.
"""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from ttt_ref.errors import AudioError
from ttt_runtime.audio.reader import read_question
from ttt_runtime.cli.assistant_run import SHIPPED
from ttt_runtime.dialogue.assistant import HEARD_NOTHING, Assistant, Reply

ROOT = Path(__file__).resolve().parents[3]
QUESTION = ROOT / "samples" / "question.wav"
RATE_HZ = 16_000
ANSWER = "the capital of france is paris"

LEAST_DB = 20.0  # of the question above what ADPCM adds

Audio = np.ndarray


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    return Assistant.from_bundle(SHIPPED, threads=1)


@pytest.fixture(scope="module")
def question() -> Audio:
    return soundfile.read(QUESTION, dtype="float32")[0]


def answered(
    assistant: Assistant, path: Path, audio: Audio, rate_hz: int = RATE_HZ, **options: str
) -> tuple[str, tuple[str, ...]]:
    """Write a file, answer it, and return the answer's text with all notes."""
    soundfile.write(path, audio, rate_hz, **options)
    return answer_file(assistant, path)


def answer_file(assistant: Assistant, path: Path) -> tuple[str, tuple[str, ...]]:
    assert assistant.tokenizer is not None
    recording = read_question(path, assistant.tokenizer, max_seconds=600)
    *_, reply = assistant.answer(recording.audio, speak=False)
    assert isinstance(reply, Reply)
    return reply.text, (*recording.notes, *reply.notes)


def room(seconds: float, level: float = 3e-4) -> Audio:
    drawn = np.random.default_rng(1).standard_normal(round(seconds * RATE_HZ))
    return (level * drawn).astype(np.float32)


def silence(seconds: float) -> Audio:
    return np.zeros(round(seconds * RATE_HZ), np.float32)


DAMAGE: dict[str, Callable[[Audio], Audio]] = {
    "quiet_-40dB": lambda q: q * np.float32(10 ** (-26 / 20)),
    "quiet_-55dB": lambda q: q * np.float32(10 ** (-41 / 20)),
    "clipped_x4": lambda q: (q * 4).clip(-1, 1),
    "clipped_x20": lambda q: (q * 20).clip(-1, 1),
    "constant_offset": lambda q: q * 0.5 + 0.3,
    "lead_10s": lambda q: np.concatenate([silence(10), q]),
    "lead_10s_of_a_room": lambda q: np.concatenate([room(10), q]),
    "after_10s": lambda q: np.concatenate([q, silence(10)]),
    "10s_on_both_sides": lambda q: np.concatenate([room(10), q, room(10)]),
    "door_then_question": lambda q: np.concatenate([room(1), 300 * room(0.02), room(3), q]),
    "inverted_stereo": lambda q: np.stack([q, -q], 1),
    "inverted_third_channel": lambda q: np.stack([q, q * 0, -q], 1),
    "one_dead_channel": lambda q: np.stack([q * 0, q], 1),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_the_question_is_answered(
    name: str, assistant: Assistant, question: Audio, tmp_path: Path
) -> None:
    text, _ = answered(assistant, tmp_path / "q.wav", DAMAGE[name](question))
    assert text == ANSWER


def test_mp3_32k(assistant: Assistant, question: Audio, tmp_path: Path) -> None:
    """Of 32 kbit/s, by the encoder that libsndfile brings."""
    options = {"bitrate_mode": "CONSTANT", "compression_level": 0.842}
    text, _ = answered(assistant, tmp_path / "q.mp3", question, **options)  # type: ignore[arg-type]
    assert text == ANSWER


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_samples_of_other_widths(
    subtype: str, assistant: Assistant, question: Audio, tmp_path: Path
) -> None:
    text, _ = answered(assistant, tmp_path / "q.wav", question, subtype=subtype)
    assert text == ANSWER


def test_adpcm_of_4_bits(assistant: Assistant, question: Audio, tmp_path: Path) -> None:
    """So noisy that processors whose products round differently hear another country in it."""
    assert assistant.tokenizer is not None
    file = tmp_path / "q.wav"
    soundfile.write(file, question, RATE_HZ, subtype="IMA_ADPCM")
    heard = read_question(file, assistant.tokenizer, max_seconds=600).audio[: len(question)]
    noise = np.sum(np.square(heard - question)) / np.sum(np.square(question))
    assert -10 * np.log10(noise) > LEAST_DB
    assert answer_file(assistant, file)[0].startswith("the capital of ")


def test_telephone_8k_is_told(assistant: Assistant, question: Audio, tmp_path: Path) -> None:
    """Half of the consonants lie above 4 kHz; what only training can mend is at least said."""
    narrow = soxr.resample(question, RATE_HZ, 8000)
    _, notes = answered(assistant, tmp_path / "q.wav", narrow, 8000)
    assert any("no sound above 3." in note and "misheard" in note for note in notes)
    _, notes = answer_file(assistant, QUESTION)
    assert notes == ()


def test_twice_says_which_part_was_taken(
    assistant: Assistant, question: Audio, tmp_path: Path
) -> None:
    """It was heard as "capital of ?"; nothing said that there had been two questions."""
    twice = np.concatenate([question, room(1.0), question])
    text, notes = answered(assistant, tmp_path / "q.wav", twice)
    assert text == ANSWER
    assert any(
        note.startswith("2 utterances in the recording; taken is the first") for note in notes
    )
    text, _ = answered(assistant, tmp_path / "q.wav", np.concatenate([question, question]))
    assert text == ANSWER


@pytest.mark.parametrize("seconds", [0.001, 0.005, 0.02, 0.05, 0.099])
def test_click_20ms(seconds: float, assistant: Assistant, question: Audio, tmp_path: Path) -> None:
    """Were answered with a greeting."""
    begin = round(0.6 * RATE_HZ)
    click = question[begin : begin + round(seconds * RATE_HZ)]
    for audio in (click, np.concatenate([silence(1), click, silence(1)])):
        text, _ = answered(assistant, tmp_path / "q.wav", audio)
        assert text == HEARD_NOTHING


def test_a_room_without_a_voice(assistant: Assistant, tmp_path: Path) -> None:
    """A fan was heard as "hey" and greeted back."""
    text, _ = answered(assistant, tmp_path / "q.wav", room(3, 0.01))
    assert text == HEARD_NOTHING


@pytest.mark.parametrize("seconds", [50, 59, 75, 120])
def test_long_50s_is_refused_before_any_work(
    seconds: int, assistant: Assistant, question: Audio, tmp_path: Path
) -> None:
    """Gave an empty answer, a loop of one word, or "shorten the conversation"."""
    long = np.resize(question, seconds * RATE_HZ)
    with pytest.raises(AudioError, match=r"s of speech; this model hears at most 12 s at once"):
        answered(assistant, tmp_path / "q.wav", long)


def test_zero_data_size(assistant: Assistant, tmp_path: Path) -> None:
    """The recorder died before it wrote the length; "holds no samples" was said of a question."""
    data = bytearray(QUESTION.read_bytes())
    at = data.index(b"data")
    for length in (0, 0xFFFFFFFF):
        data[at + 4 : at + 8] = struct.pack("<I", length)
        path = tmp_path / "q.wav"
        path.write_bytes(data)
        text, notes = answer_file(assistant, path)
        assert text == ANSWER
        assert [note for note in notes if "read to its end" in note] or length


def test_a_file_that_really_is_empty(assistant: Assistant, tmp_path: Path) -> None:
    """No samples, then a list of tags: these are not sound."""
    data = bytearray(QUESTION.read_bytes()[:44])
    data[40:44] = bytes(4)
    path = tmp_path / "q.wav"
    for rest in (b"", b"LIST\x0a\0\0\0INFOISFT\0\0"):
        path.write_bytes(bytes(data) + rest)
        with pytest.raises(AudioError, match="holds no samples"):
            answer_file(assistant, path)


RAW = {
    "16000": "<i2",
    "16000:s16be": ">i2",
    "16000:s32le": "<i4",
    "16000:f32le": "<f4",
    "16000:f64be": ">f8",
    "16000:u8": "u1",
    "16000:s16le:2": "<i2",
}


@pytest.mark.slow
@pytest.mark.parametrize("option", RAW)
def test_raw_samples_on_stdin(option: str, question: Audio) -> None:
    """`arecord -t raw | ttt-assistant answer -`: there was no way to say the rate."""
    kind = np.dtype(RAW[option])
    scaled = question.astype(np.float64)
    if kind.kind == "i":
        scaled = scaled * (np.iinfo(kind).max - 1)
    elif kind.kind == "u":
        scaled = scaled * 127 + 128
    samples = scaled.round() if kind.kind in "iu" else scaled
    data = np.repeat(samples, 2 if option.endswith(":2") else 1).astype(kind).tobytes()
    program = "from ttt_runtime.cli.assistant import main; main()"
    command = [sys.executable, "-c", program, "answer", "-", "--raw", option]
    done = subprocess.run(command, input=data, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    assert ANSWER in done.stdout.decode()


def test_raw_formats_are_checked() -> None:
    from ttt_ref.errors import ConfigError
    from ttt_runtime.audio.headers import RAW_FORMATS, RawFormat

    for name in RAW_FORMATS:
        made = RawFormat.parse(f"8000:{name}")
        with soundfile.SoundFile(io.BytesIO(bytes(64)), **made.options()) as sound:
            assert sound.samplerate == 8000
            assert sound.frames >= 8
    for wrong in ("", "0", "fast", "16000:mp3", "16000:s16le:0", "-1", "16000:s16le:2:2", "1e4"):
        with pytest.raises(ConfigError, match="expected RATE"):
            RawFormat.parse(wrong)
