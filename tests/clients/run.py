"""Start the server with the shipped bundle, run clients against it, and say which of them got on.

    python -m tests.clients.run NAME ...  # openai agents wyoming browser

Each client lives in an environment of its own below .venv-clients, made when it is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import soundfile
import soxr

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "clients"
ENVIRONMENTS = ROOT / ".venv-clients"
QUESTION = ROOT / "samples" / "question.wav"
HEARD = "tell me the capital of france"
LONGEST_SECONDS = 240


@dataclass(frozen=True)
class Served:
    """Where the server is, and a folder for what a client needs."""

    url: str
    wyoming: str
    folder: Path
    pictures: Path | None = None


def python(name: str, *packages: str) -> Path:
    """Return the Python of an environment with these packages."""
    folder = ENVIRONMENTS / name
    stamp = folder / "packages.txt"
    if not stamp.is_file() or stamp.read_text() != "\n".join(packages):
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--progress-bar", "off"]
        subprocess.run([*pip, *packages], check=True)
        stamp.write_text("\n".join(packages))
    return folder / "bin" / "python"


def node(name: str, *packages: str) -> Path:
    """Return a folder with these npm packages."""
    folder = ENVIRONMENTS / name
    if not (folder / "node_modules").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--silent", "--no-fund", "--prefix", str(folder)]
        subprocess.run([*install, *packages], check=True)
    return folder


def run(*command: str | Path, cwd: Path | None = None) -> None:
    subprocess.run([str(c) for c in command], check=True, cwd=cwd, timeout=LONGEST_SECONDS)


def openai(served: Served) -> None:
    env = python("openai", "openai[realtime]>=3,<4", "soundfile", "soxr", "numpy")
    run(env, HERE / "openai_python.py", served.url, QUESTION)


def agents(served: Served) -> None:
    folder = node("agents", "@openai/agents-realtime@^0.20", "ws")
    audio, rate = soundfile.read(QUESTION, dtype="float32")
    file = served.folder / "question.pcm"
    file.write_bytes((soxr.resample(audio, rate, 24000) * 32767).astype("<i2").tobytes())
    program = folder / "agents_realtime.mjs"  # beside its modules
    shutil.copy(HERE / "agents_realtime.mjs", program)
    run("node", program, served.url, file)


def wyoming(served: Served) -> None:
    bench = python("wyoming", "wyoming-bench>=2026.10").parent / "wyoming-bench"
    corpus = served.folder / "corpus"
    corpus.mkdir()
    audio, rate = soundfile.read(QUESTION, dtype="float32")
    soundfile.write(corpus / "x.wav", soxr.resample(audio, rate, 16000), 16000, "PCM_16")
    (corpus / "x.txt").write_text(HEARD)
    run(bench, "info", served.wyoming)
    run(bench, "tts", "--rounds", "1", "--texts", "good morning", "--", served.wyoming)
    run(bench, "stt", "--corpus", corpus, "--", served.wyoming)


def browser(served: Served) -> None:
    if not Path("/usr/bin/chromium").is_file():
        raise SystemExit("browser: /usr/bin/chromium is missing (Debian: apt install chromium)")
    env = python("browser", "playwright", "soundfile", "soxr", "numpy")
    pictures = ["--pictures", served.pictures] if served.pictures else []
    run(env, HERE / "browser.py", served.url, QUESTION, *pictures)


CLIENTS: dict[str, Callable[[Served], None]] = {
    "openai": openai,
    "agents": agents,
    "wyoming": wyoming,
    "browser": browser,
}
QUICK = ("openai", "agents", "wyoming", "browser")


@contextlib.contextmanager
def server(pictures: Path | None = None) -> Iterator[Served]:
    """Run the server while the block runs."""
    paths = [str(ROOT / name) for name in ("export", "runtime", "quant", ".")]
    command = [sys.executable, "-c", "from ttt_runtime.cli.server import main; main()"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        process = subprocess.Popen(
            [*command, "--port", "0", "--wyoming-port", "0"],
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(2)]
            url, where = (line.split(": ", 1)[-1].strip() for line in lines)
            time.sleep(1.0)
            yield Served(url.rstrip("/"), where.removeprefix("tcp://"), Path(folder), pictures)
        finally:
            process.terminate()
            process.wait(30)
            if "Traceback" in (text := log.read_text()):
                print(text, file=sys.stderr)
                raise SystemExit("the server's log holds a traceback")


def main() -> None:
    """Run the clients that are named; exit code 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(QUICK), choices=[*CLIENTS, []])
    parser.add_argument("--pictures", type=Path, help="the browser's screenshots go there")
    options = parser.parse_args()
    failed = []
    for name in options.names:
        with server(options.pictures) as served:
            try:
                CLIENTS[name](served)
            except (subprocess.SubprocessError, OSError) as error:
                failed.append(name)
                print(f"{name}: {error}", file=sys.stderr)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
