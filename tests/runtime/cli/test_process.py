"""ttt-assistant as a process: interrupted, on a full disk, its reader gone, its streams closed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile

from tests.runtime.dialogue.test_assistant import TONE
from tests.runtime.processes import environment


@pytest.fixture
def question(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "question.wav", TONE, 16000)
    return tmp_path / "question.wav"


SLOW = """
import sys, time
from tests.runtime.toy_assistant import ToneStream, toy_assistant
from tests.runtime.cli.test_assistant import SPEAKING_SEED
from ttt_runtime.cli import assistant, assistant_run
def load(*args, **options):
    return toy_assistant(SPEAKING_SEED)
push = ToneStream.push
def slow(self, codes):
    print("speaking", file=sys.stderr, flush=True)
    for _ in range(200):  # one long sleep would miss a signal that comes just before it
        time.sleep(0.1)
    return push(self, codes)
ToneStream.push = slow
assistant_run.Assistant.from_bundle = load
assistant_run.shipped_or = lambda bundle: "toy"
assistant.main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruption_leaves_nothing(
    question: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, "answer", str(question), "-o", str(folder / "a.wav")],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=environment(),
        # A shell's background job ignores Ctrl-C, and so would all that the tests start in one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "speaking\n"
    assert len(list(folder.iterdir())) == 1  # the hidden, unfinished file
    process.send_signal(number)
    began = time.monotonic()
    rest = process.stderr.read()
    assert process.wait(timeout=10) == code
    assert time.monotonic() - began < 5
    assert list(folder.iterdir()) == []
    assert "Traceback" not in rest
    assert rest.count("\n") <= 1


def test_a_reader_that_goes_away_is_no_error(question: Path) -> None:
    """`ttt-assistant transcribe ... | head -0`"""
    code = SLOW.replace("time.sleep(0.1)", "pass")
    read, write = os.pipe()
    os.close(read)
    process = subprocess.run(
        [sys.executable, "-c", code, "answer", str(question), "--json"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    os.close(write)
    assert "Traceback" not in process.stderr
    assert "Exception" not in process.stderr


def buffered(unbuffered: str) -> dict[str, str]:
    return {**environment(), "PYTHONUNBUFFERED": unbuffered}  # empty is as if it were not there


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_one_line(question: Path, unbuffered: str) -> None:
    code = SLOW.replace("time.sleep(0.1)", "pass")
    for arguments in (("-o", "/dev/full"), ("--json",), ("-o", "-")):
        with open("/dev/full", "w") as full:
            process = subprocess.run(
                [sys.executable, "-c", code, "answer", str(question), *arguments],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                env=buffered(unbuffered),
            )
        assert process.returncode == 2, arguments
        assert process.stderr.splitlines()[-1].startswith("error: no space left"), process.stderr


def test_text_that_cannot_be_written_leaves_an_earlier_error_as_it_is() -> None:
    """It waits in the buffer while something else fails, and fails itself at the process's end."""
    code = """
import typer
from ttt_ref.errors import ConfigError
from ttt_ref.command_line import run_app
app = typer.Typer()
@app.command()
def command():
    print("an answer")
    raise ConfigError("another error")
run_app(app)
"""
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True,
            env=buffered(""),
        )  # fmt: skip
    assert (process.returncode, process.stderr) == (2, "error: another error\n")


RUN = "from ttt_runtime.cli.assistant import main; main()"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_is_no_defect(question: Path, tmp_path: Path, closed: str) -> None:
    sound = tmp_path / "a.wav"
    for source, code in ((question, 0), (tmp_path / "none.wav", 2)):
        words = f"answer {source} -o {sound}"
        script = f'exec "{sys.executable}" -c "{RUN}" {words} {closed}'
        done = subprocess.run(
            ["sh", "-c", script], capture_output=True, text=True, env=buffered("")
        )
        assert (done.returncode, "Traceback" in done.stdout + done.stderr) == (code, False)
    assert sound.is_file()


@pytest.mark.parametrize("where", [(), ("--debug",)])
def test_debug_prints_the_traceback(tmp_path: Path, where: tuple[str, ...]) -> None:
    script = [sys.executable, "-c", RUN, *where, "answer", str(tmp_path / "none.wav")]
    done = subprocess.run(script, capture_output=True, text=True, env=environment())
    assert done.returncode == 2
    assert ("Traceback" in done.stderr) == bool(where)
    assert done.stderr.splitlines()[-1].startswith("error: no such file or folder")


LAUNCH = """
import sys
sys.path.insert(0, {folder!r})
from ttt_ref.launch import launch
launch("slow_command")
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_libraries_are_imported(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Ctrl-C in the first 0.1 s printed a traceback out of whatever was being imported."""
    (tmp_path / "slow_command.py").write_text(
        # Short sleeps: a signal just before a long one would wait for its end.
        "import time\nprint('importing', flush=True)\nfor _ in range(300): time.sleep(0.1)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCH.format(folder=str(tmp_path))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=10)
    assert process.returncode == code
    assert "Traceback" not in said
    assert said.count("\n") <= 1


@pytest.mark.parametrize("body", ["import no_such_library", "raise TypeError('a\\x1b[2J\\nb')"])
def test_a_defect_is_one_line_that_names_a_file(tmp_path: Path, body: str) -> None:
    (tmp_path / "slow_command.py").write_text(f"def main():\n    {body}\n")
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH.format(folder=str(tmp_path))],
        capture_output=True, text=True, env={**environment(), "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 70
    assert done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr
    (details,) = tmp_path.glob("ttt-edge-error-*.txt")
    assert str(details) in done.stderr
    assert "Traceback" in details.read_text()


NAMED = [
    (b"caf\xe9.wav", r"caf\udce9.wav"),
    (b"a\x1b[2J.wav", r"a\x1b[2J.wav"),
    (b"two\nlines.wav", r"two\nlines.wav"),
    ("\N{GRINNING FACE}.wav".encode(), "\N{GRINNING FACE}.wav"),
]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii:strict", "latin-1:strict"])
@pytest.mark.parametrize(("name", "shown"), NAMED)
def test_any_name_can_be_said(tmp_path: Path, name: bytes, shown: str, encoding: str) -> None:
    """A name that is not UTF-8, or not for this terminal, ended in a UnicodeEncodeError."""
    script = [sys.executable.encode(), b"-c", RUN.encode(), b"answer", name]
    variables = {**environment(), "PYTHONIOENCODING": encoding}
    done = subprocess.run(script, capture_output=True, cwd=tmp_path, env=variables)
    assert done.returncode == 2
    codec = encoding.partition(":")[0]
    line = done.stderr.decode(codec)
    assert line.count("\n") == 1
    assert shown.encode(codec, "backslashreplace").decode(codec) in line


@pytest.mark.parametrize("encoding", ["utf-8", "ascii:strict"])
def test_sound_goes_to_any_name(question: Path, tmp_path: Path, encoding: str) -> None:
    """The answer was computed and written, then its name could not be printed."""
    code = SLOW.replace("time.sleep(0.1)", "pass")
    target = tmp_path.as_posix().encode() + b"/caf\xe9 \xf0\x9f\x98\x80.wav"
    script = [sys.executable.encode(), b"-c", code.encode(), b"answer", str(question).encode()]
    for more in ([], [b"--json"]):
        done = subprocess.run(
            [*script, b"-o", target, *more],
            capture_output=True,
            env={**environment(), "PYTHONIOENCODING": encoding},
        )
        assert done.returncode == 0, done.stderr
        assert os.path.exists(target)
    record = json.loads(done.stdout.decode(encoding.partition(":")[0]).splitlines()[-1])
    assert os.fsencode(record["output"]) == target


def test_sound_for_a_closed_stdout_is_an_error(question: Path) -> None:
    """It was computed and lost, with exit code 0."""
    script = f'exec "{sys.executable}" -c "{RUN}" answer {question} -o - >&-'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, env=environment())
    assert done.returncode == 2
    assert "error: stdout is closed" in done.stderr


def test_sound_whose_reader_goes_away_is_an_error(question: Path) -> None:
    code = SLOW.replace("time.sleep(0.1)", "pass")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", code, "answer", str(question), "-o", "-"],
        stdout=write, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    os.close(write)
    assert done.returncode == 2
    assert "the reader of the sound went away" in done.stderr
