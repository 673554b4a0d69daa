"""Start the server with the shipped bundle, run clients against it, and say which of them got on.

    python -m tests.clients.run NAME ...         # openai agents wyoming browser
    python -m tests.clients.run --slow NAME ...  # minutes to install; without names all of them

Each client lives in an environment of its own below .venv-clients, made when it is missing. A table
of what ran, with versions, is printed at the end.
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
from pathlib import Path

from tests.clients import slow_clients
from tests.clients.environments import (
    HEARD,
    HERE,
    QUESTION,
    ROOT,
    Served,
    node,
    python,
    raw_question,
    run,
    versions,
    wav_question,
)


def openai(served: Served) -> None:
    env = python("openai", "openai[realtime]>=3,<4", "soundfile", "soxr", "numpy")
    run(env, HERE / "openai_python.py", served.url, QUESTION)


def agents(served: Served) -> None:
    folder = node("agents", "@openai/agents-realtime@^0.20", "ws")
    program = folder / "agents_realtime.mjs"  # beside its modules
    shutil.copy(HERE / "agents_realtime.mjs", program)
    run("node", program, served.url, raw_question(served))


def wyoming(served: Served) -> None:
    bench = python("wyoming", "wyoming-bench>=2026.10").parent / "wyoming-bench"
    corpus = wav_question(served, "corpus").parent
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


@contextlib.contextmanager
def server(pictures: Path | None, *, tls: bool) -> Iterator[Served]:
    """Run the server while the block runs; with `tls` under a certificate of its own."""
    paths = [str(ROOT / name) for name in ("export", "runtime", "quant", ".")]
    command = [sys.executable, "-c", "from ttt_runtime.cli.server import main; main()"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        certificate = slow_clients.certificate(Path(folder)) if tls else []
        process = subprocess.Popen(
            [*command, "--port", "0", "--wyoming-port", "0", *certificate],
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
    clients = {**CLIENTS, **slow_clients.CLIENTS}
    parser.add_argument("names", nargs="*", choices=[*clients, []])
    parser.add_argument("--slow", action="store_true", help="the slow ones, if none is named")
    parser.add_argument("--pictures", type=Path, help="the browser's screenshots go there")
    options = parser.parse_args()
    names = options.names or list(slow_clients.CLIENTS if options.slow else CLIENTS)
    rows, failed = [], []
    for name in names:
        with server(options.pictures, tls=name in slow_clients.NEED_TLS) as served:
            try:
                clients[name](served)
            except (subprocess.SubprocessError, OSError) as error:
                failed.append(name)
                print(f"{name}: {error}", file=sys.stderr)
        rows.append(f"| {name} | {versions(name)} | {'failed' if name in failed else 'passed'} |")
    print("\n".join(["| client | versions | |", "| --- | --- | --- |", *rows]))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
