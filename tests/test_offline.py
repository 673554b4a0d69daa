"""Offline to the last packet: no socket but those asked for, no file outside the named places.

docs/offline.md tells what the dependencies would send, and names this test.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.processes import ROOT, environment
from ttt_ref.offline import SWITCHES

PACKAGES = ("ttt_runtime", "ttt_ref", "ttt_quant", "ttt_export", "recipes", "benchmarks")
BUNDLE = ROOT / "runtime" / "ttt_runtime" / "bundles" / "tiny"
CHECKPOINT = ROOT / "checkpoints" / "tiny"
QUESTION = ROOT / "samples" / "question.wav"
# Written by the system or by a library to tell its own processes of itself, removed at the end.
PASSING = re.compile(r"^/(dev|proc|sys)/")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_turns_telemetry_off_before_onnxruntime_can_be_imported(package: str) -> None:
    """`import onnxruntime` wrote a device id below ~/.cache/Microsoft and looked up a collector."""
    code = f"import sys, os, json, {package}; assert 'onnxruntime' not in sys.modules; "
    code += "print(json.dumps(dict(os.environ)))"
    env = environment(ORT_DISABLE_TELEMETRY="0")
    env.pop("DO_NOT_TRACK", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: found.get(name) for name in SWITCHES} == dict(SWITCHES)


def traced(
    folder: Path, *command: str, stdin: bytes | None = None, seconds: float = 0
) -> tuple[list[str], list[str]]:
    """Run a command in a fresh HOME below strace; return its sockets, and its files elsewhere."""
    home, log = folder / "home", folder / "strace.log"
    (folder / "tmp").mkdir(exist_ok=True)
    home.mkdir(exist_ok=True)
    env = environment(HOME=str(home), TMPDIR=str(folder / "tmp"), PYTHONDONTWRITEBYTECODE="1")
    for name in (*SWITCHES, "XDG_CACHE_HOME", "HF_HOME", "MPLCONFIGDIR"):
        env.pop(name, None)
    strace = ["strace", "-f", "-qq", "-s", "400", "-e", "trace=network,open,openat,creat,mkdir"]
    done = subprocess.run(
        [*strace, "-o", str(log), sys.executable, *command],
        capture_output=True,
        env=env,
        input=stdin,
        cwd=folder,
    )
    assert done.returncode in (0, 1), done.stderr.decode()
    lines = log.read_text(errors="replace").splitlines()
    # The doctor asks the sound servers of this machine for their devices: local, all of them.
    sockets = [x for x in lines if re.search(r"\bsocket\((?!AF_UNIX)", x)]
    created = re.compile(r'\b(?:open|openat|creat|mkdir)\((?:AT_FDCWD, )?"([^"]*)"(.*)')
    written = []
    for line in lines:
        match = created.search(line)
        if match is None or not ("O_CREAT" in line or "mkdir(" in line or "creat(" in line):
            continue
        if " = -1 " in match[2]:
            continue
        path = os.path.normpath(folder / match[1])
        if not path.startswith(str(folder)) and not PASSING.match(path):
            written.append(path)
    left = [p for p in home.rglob("*") if p.is_file()]
    return sockets, written + [str(p) for p in left]


def command(module: str, *arguments: object) -> list[str]:
    """Python's words that run a command's `main` as its entry point does."""
    place, _, function = module.partition(":")
    code = f"import sys; sys.argv[0] = 'ttt'; from {place} import {function}; {function}()"
    return ["-c", code, *map(str, arguments)]


ASSISTANT = "ttt_runtime.cli.assistant:main"
DOCTOR = "ttt_runtime.cli.doctor:main"
PROFILE = "ttt_runtime.cli.profile:main"
COMMANDS = {
    "answer": command(ASSISTANT, "answer", QUESTION, "-o", "answer.wav"),
    "answer in onnxruntime": command(ASSISTANT, "answer", QUESTION, "--device", "cpu+onnxruntime"),
    "transcribe": command(ASSISTANT, "transcribe", QUESTION, "--json"),
    "speak": command(ASSISTANT, "speak", "paris", "-o", "paris.wav"),
    "doctor": command(DOCTOR, BUNDLE),
    "doctor alone": command(DOCTOR, "--json"),
    "profile": command(PROFILE, BUNDLE, "-r", "1", "-o", "json"),
    "import that lives on": [
        "-c",
        "import ttt_runtime, onnxruntime as o, time; o.InferenceSession("
        f"{str(BUNDLE / 'text_head.onnx')!r}, providers=['CPUExecutionProvider']); time.sleep(27)",
    ],
}
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@pytest.mark.slow
@needs_strace
@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_opens_no_socket_and_writes_nothing_elsewhere(name: str, tmp_path: Path) -> None:
    assert traced(tmp_path, *COMMANDS[name]) == ([], [])


@pytest.mark.slow
@needs_strace
def test_random_weights_and_an_export_open_no_socket(tmp_path: Path) -> None:
    """Exporting a folder asks no hub for anything."""
    words = command("ttt_ref.random_weights:main", "--like", "tiny", tmp_path / "weights")
    assert traced(tmp_path, *words) == ([], [])
    words = command("ttt_export.cli:main", "-m", tmp_path / "weights", "-p", "fp32", "-e", "cpu")
    assert traced(tmp_path, *words, str(tmp_path / "bundle")) == ([], [])


@pytest.mark.slow
@needs_strace
def test_training_opens_no_socket(tmp_path: Path) -> None:
    words = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "good day"}]
    line = json.dumps({"messages": words}) + "\n"
    (tmp_path / "train.jsonl").write_text(line * 8)
    (tmp_path / "run.toml").write_text(
        'output_dir = "out"\nthreads = 1\nprecision = "fp32"\n'
        f'[model]\ntokenizer = "{CHECKPOINT}"\nhidden_size = 32\nintermediate_size = 64\n'
        "num_hidden_layers = 1\nnum_attention_heads = 2\nnum_key_value_heads = 1\n"
        '[[data]]\npath = "train.jsonl"\n[schedule]\nmax_steps = 2\n'
        "[batch]\ntokens_per_batch = 64\nmax_length = 32\n"
    )
    assert traced(tmp_path, *command("ttt_ref.train.cli:main", "run.toml")) == ([], [])
