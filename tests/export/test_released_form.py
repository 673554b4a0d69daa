"""A checkpoint in the published form, from its files to a conversation, by the command lines.

Export runs with torch; whatever runs the bundle does so in processes that cannot import it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from safetensors import safe_open
from safetensors.torch import save_file

from tests.runtime.processes import ROOT, environment
from ttt_export.options import ExportOptions
from ttt_ref.checkpoint import RANDOM_MARK, is_random, read_layout
from ttt_ref.released import released_prompts
from ttt_ref.tokenizer_files import load_tokenizer

QUESTION = str(ROOT / "samples" / "question.wav")
WITHOUT_TORCH = """
import sys
for name in ("torch", "transformers", "onnx"):
    sys.modules[name] = None  # any import of it fails
from ttt_runtime.cli.{command} import main
main()
"""
TURNS = """
import sys, threading
sys.modules["torch"] = None
from ttt_runtime import Assistant
from ttt_runtime.audio.reader import read_question
from ttt_runtime.dialogue.assistant import AudioPart, Reply
assistant = Assistant.from_bundle(sys.argv[1], exactness="fast")
audio = read_question(sys.argv[2], assistant.tokenizer).audio
for seed in range(50):  # until one speaks before it is full
    stop = threading.Event()
    for part in assistant.answer(audio, cancel=stop, seed=seed):
        if isinstance(part, AudioPart):
            stop.set()
    assert isinstance(part, Reply)
    if part.reason == "cancelled":
        break
assert part.reason == "cancelled", part.reason
heard = assistant.interrupt(part, 0.16)
kept = len(assistant.engine.kept_ids)
assert heard.speech_tokens == 2, heard.speech_tokens
assert 0 < kept <= len(heard.history)
assistant.history_policy = "refuse"  # this cache is small: keep the turn before
*_, second = assistant.answer(audio, history=heard.history)
assert second.history[: len(heard.history)] == heard.history
print("second turn", second.reason, len(second.history) > len(heard.history))
"""


def run(command: str, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run one of the runtime's programs where torch cannot be imported."""
    program = [sys.executable, "-c", WITHOUT_TORCH.format(command=command), *words]
    done = subprocess.run(program, capture_output=True, text=True, env=environment())
    assert done.returncode == code, done.stderr
    return done


def module(name: str, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", name, *words]
    done = subprocess.run(program, capture_output=True, text=True, env=environment())
    assert done.returncode == code, done.stderr
    return done


def make_talkative(folder: Path) -> None:
    """Let random weights begin and end spans now and then, as they would after training."""
    layout = read_layout(folder, load_tokenizer(folder))
    file = folder / "model.safetensors"
    with safe_open(str(file), "pt") as stored:
        metadata = stored.metadata()
        weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    table = weights["model.embed_tokens.weight"]
    table[layout.begin_of_quad_id] *= 6
    table[layout.end_of_audio_span_last_id] *= 6
    table[layout.im_end_id] *= 3
    table[layout.mask_id] = 0  # a tied model without training says again what it sees
    save_file(weights, file, metadata)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoint, codec and bundle."""
    folder = tmp_path_factory.mktemp("released")
    words = ["--like", "released-tiny", str(folder / "model"), "--codec", str(folder / "codec")]
    module("ttt_ref.random_weights", *words)
    make_talkative(folder / "model")
    codec = folder / "codec"
    words = ["-m", str(folder / "model"), "-p", "int4", str(folder / "bundle")]
    words += ["--speech-tokenizer", str(codec / "tokenizer")]
    module("ttt_export.cli", *words, "--speech-decoder", str(codec / "decoder"))
    return folder


def test_the_checkpoint_has_the_published_form(made: Path) -> None:
    config = json.loads((made / "model" / "config.json").read_text())
    assert not [key for key in config if key.startswith("ttt")]
    assert {p.name for p in (made / "model").iterdir()} == {
        "config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    files = {p.relative_to(made / "codec").as_posix() for p in (made / "codec").rglob("*.*")}
    assert files == {
        "tokenizer/config.json",
        "tokenizer/preprocessor_config.json",
        "tokenizer/model.safetensors",
        "decoder/config.yaml",
        "decoder/flow.pt",
        "decoder/hift.pt",
    }
    assert is_random(made / "model")


def test_answer(made: Path, tmp_path: Path) -> None:
    """`this bundle knows no task 'answer'` was all that a published checkpoint said."""
    out = tmp_path / "answer.wav"
    words = ["answer", QUESTION, "-b", str(made / "bundle"), "-o", str(out)]
    run("assistant", *words)
    # Over all rows random weights say text in spans, too; the heads apart, they speak.
    said = run("assistant", *words, "--exactness", "fast")
    assert "to first audio" in said.stdout
    assert "brings no prompts" not in said.stderr
    assert soundfile.info(out).duration > 0.1


def test_ask_and_transcribe_and_chat(made: Path, tmp_path: Path) -> None:
    bundle, out = str(made / "bundle"), str(tmp_path / "caption.wav")
    words = ["Please generate a caption for the given audio.", QUESTION, "-b", bundle]
    said = json.loads(run("assistant", "ask", *words, "-o", out, "--json").stdout)
    assert said["task"] == "ask"
    assert said["output"] == out
    whole = json.loads(run("assistant", "transcribe", QUESTION, "-b", bundle, "--json").stdout)
    assert whole["task"] == "transcribe"
    words = [QUESTION, "-b", bundle, "--exactness", "fast", "--fast", "text_only", "--json"]
    assert json.loads(run("assistant", "transcribe", *words).stdout)["block_count"] == 0
    said = json.loads(run("assistant", "chat", "Hello there", "-b", bundle, "--json").stdout)
    assert said["task"] == "chat"
    assert said["encode_count"] == 0


def test_speak_needs_a_text_of_the_users(made: Path, tmp_path: Path) -> None:
    words = ["speak", "Hello", "-b", str(made / "bundle"), "-o", str(tmp_path / "said.wav")]
    refused = run("assistant", *words, code=2).stderr
    assert "trained without a text for 'speak'" in refused
    assert len(refused.splitlines()) == 1
    assert not (tmp_path / "said.wav").exists()
    run("assistant", *words, "--system", "Speak this text.")
    refused = run("assistant", *words, "--system", "<|im_end|>", code=2).stderr
    assert "control token" in refused


def test_barge_in_and_second_turn(made: Path) -> None:
    program = [sys.executable, "-c", TURNS, str(made / "bundle"), QUESTION]
    done = subprocess.run(program, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("second turn")
    assert done.stdout.strip().endswith("True")


def test_doctor_and_profile(made: Path) -> None:
    said = json.loads(run("doctor", str(made / "bundle"), "--json").stdout)
    assert said["good"]
    said = json.loads(run("profile", str(made / "bundle"), "-r", "1", "-o", "json").stdout)
    assert said["bundle"] == "bundle"


def test_an_old_bundle_gets_the_published_tasks(made: Path, tmp_path: Path) -> None:
    """Bundles that were exported before have no prompts; their files stay as they are."""
    import shutil

    old = shutil.copytree(made / "bundle", tmp_path / "old")
    config = json.loads((old / "ttt_config.json").read_text())
    assert config["prompts"] == released_prompts()
    config["prompts"] = {}
    (old / "ttt_config.json").write_text(json.dumps(config))
    said = run("assistant", "transcribe", QUESTION, "-b", str(old))
    assert "note: this bundle brings no prompts" in said.stderr


def test_random_weights_only_report_their_gates(made: Path, tmp_path: Path) -> None:
    """int4 of a random checkpoint was refused unless one knew --max-kl 1e9 --min-agreement 0."""
    words = ["-m", str(made / "model"), "-p", "int4", "--min-agreement", "1"]
    words += ["--codec-from", str(made / "bundle")]
    said = module("ttt_export.cli", *words, str(tmp_path / "random"))
    assert "random weights, so the gates only report" in said.stderr
    unmarked = tmp_path / "unmarked"
    unmarked.mkdir()
    for file in (made / "model").iterdir():
        (unmarked / file.name).write_bytes(file.read_bytes())
    with safe_open(str(unmarked / "model.safetensors"), "pt") as stored:
        assert RANDOM_MARK in stored.metadata()
        weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    save_file(weights, unmarked / "model.safetensors", {"format": "pt"})
    words[1] = str(unmarked)
    refused = module("ttt_export.cli", *words, str(tmp_path / "learnt"), code=2)
    assert "not published" in refused.stderr
    assert not (tmp_path / "learnt").exists()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("p.toml", b'answer = "caf\xe9"', "UTF-8"),
        ("p.json", b"{", "JSON"),
        ("p.toml", b"", "no prompts"),
        ("p.toml", b'[system]\nanser = "x"', "unknown task 'anser'"),
        ("p.toml", b"system = 3", "must hold"),
    ],
)
def test_bad_prompt_files(made, tmp_path, name, content, expected) -> None:
    (tmp_path / name).write_bytes(content)
    words = ["-m", str(made / "model"), "--prompts", str(tmp_path / name), str(tmp_path / "b")]
    refused = module("ttt_export.cli", *words, code=2).stderr.splitlines()
    assert expected in refused[-1]
    assert not (tmp_path / "b").exists()


def test_prompts_of_the_user_replace_the_published(made: Path, tmp_path: Path) -> None:
    from ttt_export.options import extra_config
    from ttt_export.source import open_checkpoint

    (tmp_path / "p.toml").write_text('answer = "Mine."\nspeak = "Say."\n')
    options = ExportOptions(prompts=tmp_path / "p.toml")
    _, prompts = extra_config(open_checkpoint(made / "model"), options.prompts)
    assert prompts == {"system": {"answer": "Mine.", "speak": "Say."}}
