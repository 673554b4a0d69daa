"""What a user gets: the wheel in a clean environment, and the model inside it."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ttt_ref import checkpoint
from ttt_ref.generate import generate
from ttt_runtime.audio.reader import read_audio
from ttt_runtime.backends.native.library import missing, suited
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.dialogue.assistant import Assistant, AudioPart, Reply

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "runtime" / "ttt_runtime" / "bundles" / "tiny"
CHECKPOINT = ROOT / "checkpoints" / "tiny"
QUESTION = ROOT / "samples" / "question.wav"


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    return Assistant.from_bundle(BUNDLE, threads=1, verify="hashes")


def question_audio(assistant: Assistant) -> np.ndarray:
    assert assistant.tokenizer is not None
    return read_audio(str(QUESTION), assistant.tokenizer.sample_rate_hz).audio


def test_the_shipped_question_is_heard_and_answered_aloud(assistant: Assistant) -> None:
    parts = list(assistant.answer(question_audio(assistant)))
    reply = parts[-1]
    assert isinstance(reply, Reply)
    assert reply.heard == "tell me the capital of france"
    assert reply.text == "the capital of france is paris"
    audio = np.concatenate([p.audio for p in parts if isinstance(p, AudioPart)])
    assert assistant.decoder is not None
    assert 1.0 < len(audio) / assistant.decoder.sample_rate_hz < 4.0
    assert float(np.abs(audio).max()) > 0.05


def test_the_shipped_files_are_small_enough() -> None:
    total = sum(f.stat().st_size for f in BUNDLE.rglob("*") if f.is_file())
    assert total <= 30e6
    assert Bundle.open(BUNDLE, "hashes").config.codec is not None


@pytest.mark.parametrize("chunk", [1, 7, 26])
def test_the_shipped_codec_streams_what_it_decodes_offline(
    assistant: Assistant, chunk: int
) -> None:
    assert assistant.tokenizer is not None
    assert assistant.decoder is not None
    codes = assistant.tokenizer.encode(question_audio(assistant))
    offline = assistant.decoder.decode(codes)
    stream = assistant.decoder.stream()
    pieces = [stream.push(codes[i : i + chunk]) for i in range(0, len(codes), chunk)]
    streamed = np.concatenate([*pieces, stream.finish()])
    assert streamed.shape == offline.shape
    assert float(np.abs(streamed - offline).max()) <= 1e-4


def test_the_shipped_precision_answers_as_the_checkpoint_does(assistant: Assistant) -> None:
    """int8 against the slow reference on the same prompts: the same text, nearly all codes."""
    model, _, layout = checkpoint.load(CHECKPOINT)
    assert assistant.tokenizer is not None
    prompts = assistant.prompts
    codes = assistant.tokenizer.encode(question_audio(assistant))
    prompt = prompts.conversation("answer") + prompts.user_turn(prompts.speech(codes))
    wanted = generate(model.eval(), layout, prompt, assistant.config)
    got = assistant.engine.generate_ids(prompt, assistant.config)
    assert prompts.decode(got) == prompts.decode(wanted)
    speech = [i for i in wanted if layout.is_audio(i)]
    same = sum(a == b for a, b in zip(wanted, got, strict=False) if layout.is_audio(a))
    assert same >= 0.8 * len(speech)


def test_the_wheel_runs_in_a_clean_environment_without_torch(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(wheels)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (wheel,) = wheels.glob("ttt_edge-*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", f"{wheel}[cpu]"], check=True, cwd=tmp_path
    )
    answer = tmp_path / "answer.wav"
    command = [python.parent / "ttt-assistant", "answer", QUESTION, "-o", answer, "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert "paris" in json.dumps(json.loads(done.stdout.splitlines()[-1]))
    assert soundfile.info(answer).duration > 1.0
    # Where there is a compiler the wheel brings the kernels, and the answer came from them.
    doctor = subprocess.run(
        [python.parent / "ttt-doctor", "--json"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    has_kernels = not json.loads(doctor.stdout)["kernels"].startswith("none")
    assert has_kernels == (missing() is None)
    assert ("runs in onnxruntime" in done.stderr) == (not has_kernels and bool(suited()))
    probe = "import importlib.util as u; raise SystemExit(u.find_spec('torch') is not None)"
    assert subprocess.run([python, "-c", probe], check=False, cwd=tmp_path).returncode == 0
