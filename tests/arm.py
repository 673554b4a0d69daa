"""The kernels for Arm under emulation: ``make test-arm``, or ``python -m tests.arm``.

The cross compiler builds them with every warning an error. On one CPU with i8mm, one with dotprod
and one with neither the kernels' tests are run, and one whole spoken answer at exactness `exact`,
whose ids must be those of this machine. Last, `ttt-assistant answer` itself. Needs Debian's
qemu-user-static, mmdebstrap, gcc-aarch64-linux-gnu and libc6-dev-arm64-cross.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / "build" / "arm"
# As qemu names them, and the variant of the kernels that must be chosen there.
CPUS: Final = {"max": "neon_i8mm", "cortex-a76": "neon_dotprod", "cortex-a72": "neon"}
TESTS: Final = [
    f"tests/runtime/backends/native/test_{name}.py" for name in ("product", "team", "top_k")
]
QUESTION: Final = ROOT / "samples" / "question.wav"
COMPILER: Final = ("-m", "ttt_runtime.backends.native.compiler", "--strict", "--into")


def answer_ids(device: str) -> dict[str, Any]:
    """Answer the sample question here; returns the ids of prompt and answer and what made them."""
    from ttt_runtime.audio.reader import read_audio
    from ttt_runtime.cli.assistant_run import SHIPPED
    from ttt_runtime.dialogue.assistant import Assistant, Reply

    assistant = Assistant.from_bundle(SHIPPED, device, "exact")
    assert assistant.tokenizer is not None
    audio = read_audio(str(QUESTION), assistant.tokenizer.sample_rate_hz).audio
    reply = list(assistant.answer(audio))[-1]
    assert isinstance(reply, Reply)
    made_by = assistant.engine.runner.runs_in
    return {"runs_in": made_by, "text": reply.text, "ids": list(reply.history)}


def main() -> None:
    """Build and try all, or with `--answer DEVICE` print one answer as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.arm")
    parser.add_argument("--answer", metavar="DEVICE", help="answer here, print the ids")
    chosen = parser.parse_args()
    if chosen.answer is not None:
        print(json.dumps(answer_ids(chosen.answer)))
        return
    try_all()


def try_all() -> None:
    """Compile, emulate, compare; SystemExit with what is not as it should be."""
    from release.roots import SUITES, unpack
    from tests.pythons import requirements

    kernels = FOLDER / "kernels"
    cross = {"CC": "aarch64-linux-gnu-gcc", "_PYTHON_HOST_PLATFORM": "linux-aarch64"}
    checked([sys.executable, *COMPILER, str(kernels)], **cross)
    root = unpack(SUITES[11], "aarch64", FOLDER)
    site = FOLDER / "site"
    if not (site / "onnxruntime").is_dir():
        root.install(site, requirements(None, ["cpu"]))
    sources = [ROOT / name for name in ("export", "runtime", "quant", ".")]
    settings = {**root.environment(*sources, site), "TTT_KERNELS_FOLDER": str(kernels)}
    here = json.loads(checked([sys.executable, "-m", "tests.arm", "--answer", "cpu"]))
    print(f"here: {here['runs_in']}, {len(here['ids'])} ids, {here['text']!r}", flush=True)
    for cpu, variant in CPUS.items():
        start = root.command(cpu)
        command = [*start, "-m", "pytest", "-p", "no:cacheprovider", *TESTS]
        if subprocess.run(command, env={**os.environ, **settings}, check=False).returncode != 0:
            raise SystemExit(f"the kernels' tests failed on {cpu}")
        answer = [*start, "-m", "tests.arm", "--answer", "cpu+native"]
        there = json.loads(checked(answer, **settings))
        if f"({variant})" not in there["runs_in"] or there["ids"] != here["ids"]:
            raise SystemExit(f"{cpu} should answer in {variant} with our ids, found {there}")
        print(f"{cpu}: {variant}, the same {len(there['ids'])} ids", flush=True)
    spoken = FOLDER / "answer.wav"
    command = [*root.command(), "-m", "ttt_runtime", "answer", str(QUESTION), "-o", str(spoken)]
    said = json.loads(checked([*command, "--device", "cpu+native", "--json"], **settings))
    if said["text"] != here["text"] or spoken.stat().st_size < 10_000:
        raise SystemExit(f"ttt-assistant answered {said}")
    print(f"ttt-assistant: {said['text']!r}, {said['audio_seconds']} s of speech", flush=True)


def checked(command: list[str], **more: str) -> str:
    """Run a program with more environment; returns what it printed, SystemExit if it failed."""
    done = subprocess.run(
        command, env={**os.environ, **more}, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    main()
