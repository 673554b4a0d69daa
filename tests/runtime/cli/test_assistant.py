"""ttt-assistant: what it prints and writes, and one line with exit code 2 for every mistake."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from tests.runtime.bundles import edit_config, write_toy
from tests.runtime.dialogue.test_assistant import TONE
from tests.runtime.processes import environment
from tests.runtime.toy_assistant import byte_tokenizer, toy_assistant
from tests.runtime.versions import needs_standard_onnxruntime
from ttt_ref.command_line import run_app
from ttt_ref.streams import printable
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.bundle.manifest import CONFIG_NAME
from ttt_runtime.cli import assistant_run
from ttt_runtime.cli.assistant import app
from ttt_runtime.decode.approximations import Approximations

SPEAKING_SEED = next(
    seed
    for seed in range(40)
    if any(type(p).__name__ == "AudioPart" for p in toy_assistant(seed).answer(TONE))
)


@dataclass
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Run the command line in this process; the toy stands in for any bundle that opens."""

    def load(path: object, *args: object, **options: object) -> object:
        if path != "toy":
            Bundle.open(path)  # type: ignore[arg-type]
        return toy_assistant(SPEAKING_SEED)

    monkeypatch.setattr(assistant_run.Assistant, "from_bundle", load)
    monkeypatch.setattr(assistant_run, "shipped_or", lambda bundle: bundle or "toy")

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["ttt-assistant", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            run_app(app)
        captured = capsys.readouterr()
        code = caught.value.code
        assert isinstance(code, int)
        return Result(code, captured.out, captured.err)

    return run


def refused(result: Result, word: str) -> None:
    assert result.code == 2, result
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert word in result.err
    assert result.out == ""


@pytest.fixture
def question(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "question.wav", TONE, 16000)
    return tmp_path / "question.wav"


def test_answer_writes_sound_text_and_a_table(cli, question: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "answer.wav"
    result = cli("answer", question, "-o", out)
    assert result.code == 0, result.err
    audio, rate_hz = soundfile.read(out)
    assert rate_hz == 16000
    assert f"{len(audio) / 16000:.2f} s of speech in {out}" in result.out
    for word in ("encode", "prefill", "block", "decode", "to first audio", "RTF"):
        assert word in result.out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["answer.wav", "question.wav"]


def test_json_is_one_object_a_line(cli, question: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    result = cli("answer", question, question.parent / "question.wav", "--json")
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert [line["input"] for line in lines] == [str(question)] * 2
    assert {"task", "heard", "text", "reason", "ttfa_ms", "rtf", "total_ms"} <= lines[0].keys()
    assert lines[0]["output"] is None
    result = cli("answer", question, "--json", "-o", tmp_path / "a.wav")
    line = json.loads(result.out)
    assert line["audio_seconds"] == pytest.approx(soundfile.info(tmp_path / "a.wav").duration)


def test_fast_options_and_overlap_reach_the_assistant(  # type: ignore[no-untyped-def]
    cli, question: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, object]] = []

    def load(*_: object, **options: object) -> object:
        seen.append(options)
        return toy_assistant(SPEAKING_SEED)

    monkeypatch.setattr(assistant_run.Assistant, "from_bundle", load)
    fast = ("--exactness", "fast", "--fast", "end_slot", "--fast", "threshold=0.9")
    assert cli("answer", question, *fast, "--overlap").code == 0
    assert cli("speak", "hello", "-o", tmp_path / "a.wav").code == 0
    assert seen[0]["fast"] == Approximations(end_slot=True, threshold=0.9)
    assert [options["overlap"] for options in seen] == [True, False]
    assert seen[1]["fast"] is None


def test_several_inputs_go_into_a_folder(cli, question: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    other = tmp_path / "other.flac"
    soundfile.write(other, np.repeat(TONE[:, None], 2, 1), 44100)
    assert cli("answer", question, other, "-o", tmp_path / "out").code == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["other.wav", "question.wav"]
    refused(cli("answer", question, other, "-o", question), "give a folder")
    refused(cli("answer", question, other, "-o", "-"), "give a folder")
    refused(cli("answer", question, question, "-o", tmp_path / "out"), "two inputs are named")


@pytest.mark.parametrize("task", ["answer", "transcribe"])
def test_a_broken_input_does_not_stop_the_others(  # type: ignore[no-untyped-def]
    cli, question: Path, tmp_path: Path, task: str
) -> None:
    """A batch of ten stopped at its fifth (openai/whisper#1682 is of the same kind)."""
    broken, missing = tmp_path / "broken.wav", tmp_path / "missing.wav"
    broken.write_bytes(b"RIFF")
    last = tmp_path / "last.wav"
    soundfile.write(last, TONE, 16000)
    result = cli(task, question, broken, missing, last, "--json")
    assert result.code == 1
    lines = [json.loads(line) for line in result.out.splitlines()]
    failed = {line["input"]: line["error"] for line in lines if "error" in line}
    assert set(failed) == {str(broken), str(missing)}
    assert "no such file" in failed[str(missing)]
    assert [line["input"] for line in lines if "error" not in line] == [str(question), str(last)]
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    assert errors[-1] == "error: 2 of 4 inputs failed; the rest is done"


def test_one_broken_input_is_an_error_as_ever(cli, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    result = cli("transcribe", tmp_path / "missing.wav", "--json")
    assert result.code == 2
    assert "no such file" in json.loads(result.out)["error"]
    assert result.err.count("\n") == 1


def test_a_batch_without_a_good_input_loads_no_model(  # type: ignore[no-untyped-def]
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assistant_run, "load_assistant", None)
    assert cli("answer", tmp_path / "a.wav", tmp_path / "b.wav").code == 1


def test_the_outputs_of_a_batch_are_those_of_its_good_inputs(  # type: ignore[no-untyped-def]
    cli, question: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    out = tmp_path / "out"
    assert cli("answer", tmp_path / "broken.wav", question, "-o", out).code == 1
    assert [path.name for path in out.iterdir()] == ["question.wav"]


def test_text_that_is_not_utf_8_is_refused(cli, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    refused(cli("speak", "caf\udce9", "-o", tmp_path / "a.wav"), "not UTF-8")
    refused(cli("speak", "hello", "--system", "\udcff", "-o", tmp_path / "a.wav"), "not UTF-8")


def test_transcribe_prints_lines(cli, question: Path) -> None:  # type: ignore[no-untyped-def]
    one = cli("transcribe", question)
    assert one.code == 0
    assert cli("transcribe", question, question).out.startswith(f"{question}: {one.out.strip()}")
    assert json.loads(cli("transcribe", question, "--json").out)["heard"] == one.out.strip()


def test_speak_and_its_mistakes(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "a.wav"
    assert cli("speak", "hello there", "-o", out).code == 0
    assert soundfile.info(out).samplerate == 16000
    monkeypatch.setattr(sys, "stdin", io.StringIO("from a pipe"))
    assert cli("speak", "-", "-o", out).code == 0
    refused(cli("speak", "hello"), "nowhere to put the sound")
    refused(cli("speak", "", "-o", out), "no text to speak")
    refused(cli("speak", "x" * 2001, "-o", out), "2001 characters")
    refused(cli("speak", "<|im_end|>", "-o", out), "control token")


def test_stdin_and_stdout(cli, question: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    stdin = SimpleNamespace(buffer=io.BytesIO(question.read_bytes()), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", stdin)
    result = cli("answer", "-", "--json")
    assert json.loads(result.out)["input"] == "-"
    refused(cli("answer", "-", "-"), "given twice")


def test_silence_is_told(cli, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    soundfile.write(tmp_path / "s.wav", np.zeros(16000), 16000)
    result = cli("answer", tmp_path / "s.wav", "-o", tmp_path / "a.wav")
    assert result.code == 0
    assert "I heard nothing." in result.out
    assert soundfile.info(tmp_path / "a.wav").samplerate == 16000
    assert cli("transcribe", tmp_path / "s.wav").out == "\n"


def test_bad_sound_files(cli, question: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "text.wav").write_text("words " * 100)
    (tmp_path / "cut.wav").write_bytes(question.read_bytes()[:30])
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16000)
    soundfile.write(tmp_path / "nan.wav", TONE * np.nan, 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "long.wav", np.zeros(600 * 8000, np.int16), 8000)
    for name, word in (
        ("missing.wav", "no such file"),
        (".", "is a folder"),
        ("text.wav", "not a sound file"),
        ("cut.wav", "not a sound file"),
        ("none.wav", "no samples"),
        ("nan.wav", "NaN"),
        ("long.wav", "600 s long; at most 60 s"),
    ):
        for command in ("answer", "transcribe"):
            result = cli(command, tmp_path / name)
            refused(result, word)
        refused(cli("answer", tmp_path / name, "-o", tmp_path / "new.wav"), word)
    assert not (tmp_path / "new.wav").exists()
    assert not list(tmp_path.glob(".*"))


def test_many_channels_at_96_khz(cli, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    soundfile.write(tmp_path / "a.wav", np.repeat(np.tile(TONE, 6)[:, None], 8, 1), 96000)
    assert cli("answer", tmp_path / "a.wav", "-o", tmp_path / "b.wav").code == 0


def test_outputs_that_cannot_be_written(cli, question: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for target, word in (
        (tmp_path / "missing" / "a.wav", "no such file"),
        (question / "a.wav", "Not a directory"),
        ("/proc/a.wav", "/proc/a.wav"),
    ):
        result = cli("answer", question, "-o", target)
        refused(Result(result.code, "", result.err), word)


def test_options_that_do_not_exist(cli, question: Path) -> None:  # type: ignore[no-untyped-def]
    for arguments, word in (
        (("answer",), "inputs"),
        (("answer", question, "--loud"), "--loud"),
        (("answer", question, "--threads", "0"), "threads"),
        (("answer", question, "--threads", "many"), "threads"),
        (("answer", question, "--seed", "-1"), "seed"),
        (("answer", question, "--max-seconds", "1e9"), "max-seconds"),
        (("answer", question, "--exactness", "quick"), "unknown exactness 'quick'"),
        (("answer", question, "--fast", "end_slot"), "needs --exactness fast"),
        (("answer", question, "--exactness", "fast", "--fast", "x"), "known: constrained_heads"),
        (("sing", question), "sing"),
    ):
        refused(cli(*arguments), word)
    assert cli("--help").code == 0


@pytest.mark.parametrize("device", ["cuda", "tensorrt", "rtx", "abacus"])
def test_devices_that_are_not_there(device: str, question: Path, tmp_path: Path) -> None:
    """No fall-back to the CPU, in the real program."""
    bundle = write_toy(tmp_path / "toy", tokenizer=None)
    result = program("answer", question, "--bundle", bundle, "--device", device)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert device in result.stderr
    assert result.stderr.count("\n") == 1


def test_bundles_that_cannot_be_used(cli, question: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    def run(bundle: Path) -> Result:
        result: Result = cli("answer", question, "--bundle", bundle)
        return result

    refused(run(tmp_path / "missing"), "not there")
    newer = write_toy(tmp_path / "newer")
    edit_config(newer, lambda c: c.update(format_version=2))
    refused(run(newer), "update ttt-edge")
    wrong_hash = write_toy(tmp_path / "wrong")
    (wrong_hash / "graphs" / "decoder.onnx").write_bytes(b"no graph: dacoder")
    refused(run(wrong_hash), "SHA-256")
    cut = write_toy(tmp_path / "cut")
    (cut / CONFIG_NAME).write_text((cut / CONFIG_NAME).read_text()[:500])
    refused(run(cut), "cut short or damaged")


def program(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    code = "from ttt_runtime.cli.assistant import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(),
        **options,  # type: ignore[call-overload]
    )


@needs_standard_onnxruntime
def test_a_graph_that_is_none_is_one_line(question: Path, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer.json"
    byte_tokenizer().save(str(tokenizer))
    result = program("answer", question, "--bundle", write_toy(tmp_path / "toy"))
    assert result.returncode == 2
    assert "cannot be loaded" in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_text_of_a_model_may_not_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\tc\n\x07") == "a\ufffd[2Jb\tc\n\ufffd"


def test_playing_needs_a_device(cli, question: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    def nothing(**_: object) -> None:
        raise ValueError("no device")

    monkeypatch.setitem(sys.modules, "sounddevice", SimpleNamespace(query_devices=nothing))
    refused(cli("answer", question, "--play"), "no audio output device")
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    refused(cli("answer", question, "--play"), "pip install '.[mic]'")


def test_playing_plays_the_answer(cli, question: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    played: list[np.ndarray] = []

    class Stream:
        def __init__(self, **settings: object) -> None:
            assert settings == {"samplerate": 16000, "channels": 1, "dtype": "float32"}

        def __enter__(self) -> Stream:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def write(self, audio: np.ndarray) -> None:
            played.append(audio)

    device = SimpleNamespace(query_devices=lambda **_: {}, OutputStream=Stream)
    monkeypatch.setitem(sys.modules, "sounddevice", device)
    result = cli("answer", question, "--play", "--json")
    assert result.code == 0, result.err
    seconds = sum(map(len, played)) / 16000
    assert seconds == pytest.approx(json.loads(result.out)["audio_seconds"])
    assert seconds > 0


def test_no_shipped_bundle_is_one_line(
    question: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ttt_ref.errors import BundleError

    monkeypatch.setattr(assistant_run, "SHIPPED", tmp_path / "none")
    with pytest.raises(BundleError, match="--bundle"):
        assistant_run.shipped_or(None)


@pytest.mark.parametrize("output", ["", ".", "question.wav", "hard.wav", "soft.wav", "./folder/.."])
def test_an_output_that_is_an_input_is_refused(  # type: ignore[no-untyped-def]
    cli, question: Path, tmp_path: Path, monkeypatch, output: str
) -> None:
    """`-o .` and `-o ""` (an unset variable) wrote the answer over the recording."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "hard.wav").hardlink_to(question)
    (tmp_path / "soft.wav").symlink_to(question)
    before = question.read_bytes()
    result = cli("answer", question, "-o", output)
    refused(result, "is the input" if output else "is empty")
    assert question.read_bytes() == before
