"""From a plain text model and recordings to a checkpoint of one's own, by the command lines."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from tests.runtime.processes import environment
from ttt_ref import checkpoint
from ttt_ref.codec.glm4voice.random_weights import write_tokenizer
from ttt_ref.config import BEGIN_OF_QUAD, END_OF_AUDIO_SPAN_LAST
from ttt_ref.released import is_released, released_prompts

RECORDINGS = 20
TRAIN = """
output_dir = "{out}"
precision = "fp32"
master_weights = "{master}"
gradient_checkpointing = true
model = {{ checkpoint = "{model}" }}
data = [{{ path = "{data}" }}]
batch = {{ tokens_per_batch = 700, max_length = 350 }}
lora = {{ rank = 4, whole = ["embed_tokens"] }}
schedule = {{ max_steps = 3, warmup_steps = 1 }}
log = {{ every_steps = 1, tensorboard = false, progress = false }}
"""


def run(name: str, *words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, as training wants it for its signals."""
    program = [sys.executable, "-m", name, *map(str, words)]
    done = subprocess.run(program, capture_output=True, text=True, env=environment())
    assert done.returncode == code, done.stderr
    return done


def call(name: str, *words: object, code: int = 0) -> str:
    """Run a command in this process, which has torch loaded, and return its stderr."""
    said, left = io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        patch.setattr(sys, "argv", [name, *map(str, words)])
        try:
            importlib.import_module(name).main()
        except SystemExit as stop:
            left = int(stop.code or 0)
    assert left == code, said.getvalue()
    return said.getvalue()


def tone(path: Path, number: int, subtype: str = "PCM_16") -> None:
    time = np.arange(8000 + 200 * number) / 16_000
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * (200 + 20 * number) * time), 16_000, subtype)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain Qwen2.5 checkpoint, the same with speech tokens, a codec, and a corpus."""
    folder = tmp_path_factory.mktemp("own")
    call("ttt_ref.random_weights", "--like", "plain-tiny", folder / "plain")
    call("ttt_ref.init_checkpoint", folder / "plain", folder / "model")
    write_tokenizer(folder / "codec" / "tokenizer", "small")
    corpus = folder / "corpus"
    corpus.mkdir()
    rows = ["file_name,text,speaker"]
    for number in range(RECORDINGS):
        tone(corpus / f"{number}.wav", number)
        rows.append(f'{number}.wav,"this is number {number}, said in full",s{number % 5}')
    (corpus / "metadata.csv").write_text("\n".join(rows))
    return folder


def test_the_vocabulary_is_extended_in_the_published_order(base: Path) -> None:
    plain = next(v for n, v in checkpoint.iter_weights(base / "plain") if "embed" in n)
    model, _, layout = checkpoint.load(base / "model")
    assert is_released(layout)
    assert layout.end_of_audio_span_last_id == layout.vocab_size - 1
    table = model.model.embed_tokens.weight
    assert torch.equal(table[: len(plain)], plain)
    fresh = table[len(plain) :]
    assert float(fresh.std().detach()) == pytest.approx(0.5 * float(plain.std()), rel=0.1)


def test_an_untied_start_has_two_equal_tables(base: Path, tmp_path: Path) -> None:
    call("ttt_ref.init_checkpoint", base / "plain", tmp_path / "untied", "--untied")
    model = checkpoint.load(tmp_path / "untied").model
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_init_refuses_other_checkpoints(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for folder, expected in ((base / "model", "Qwen2ForCausalLM"), (tmp_path, "config.json")):
        said = call("ttt_ref.init_checkpoint", folder, out, code=2)
        assert expected in said
        assert len(said.splitlines()) == 1
        assert not out.exists()


def prepare(base: Path, corpus: Path, out: Path, *words: object, code: int = 0) -> str:
    given = [corpus, out, "-m", base / "model", "--codec", base / "codec", *words]
    return call("ttt_ref.prepare.cli", *given, code=code)


def test_recordings_become_a_checkpoint(base: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    prepare(base, base / "corpus", data, "--held-out", "0.3", "--task", "transcribe")
    lines = (data / "transcribe.train.jsonl").read_text().splitlines()
    held_out = (data / "transcribe.dev.jsonl").read_text().splitlines()
    assert len(lines) + len(held_out) == RECORDINGS
    assert len(lines) % 4 == 0  # whole speakers, of four recordings each
    messages = json.loads(lines[0])["messages"]
    assert messages[0]["content"] == released_prompts()["system"]["transcribe"]
    assert messages[2]["content"].startswith("this is numb")  # 13 tokens of one byte or more
    assert messages[2]["content"].count(BEGIN_OF_QUAD) == 1
    assert messages[2]["content"].endswith(END_OF_AUDIO_SPAN_LAST)
    config = tmp_path / "train.toml"
    names = {"model": base / "model", "data": data / "transcribe.train.jsonl", "master": "fp32"}
    config.write_text(TRAIN.format(out=out, **names))
    run("ttt_ref.train.cli", config)
    before = checkpoint.load(base / "model").model.state_dict()
    after = checkpoint.load(out / "model").model.state_dict()
    assert (out / "adapter" / "adapter_config.json").is_file()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "model.layers.0.self_attn.q_proj.weight" in changed
    assert "model.embed_tokens.weight" in changed
    assert "model.norm.weight" not in changed

    from ttt_export.source import open_checkpoint
    from ttt_export.weights import tensor

    exported = open_checkpoint(base / "model", out / "adapter").weights
    for name in changed:
        assert np.allclose(tensor(exported, name), after[name].numpy(), atol=1e-6)


def test_adapters_on_bf16_master_weights(base: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    prepare(base, base / "corpus", data, "--task", "speak", "--held-out", "0", "--workers", "2")
    compiled = tmp_path / "compiled"  # as saved from torch.compile
    shutil.copytree(base / "model", compiled)
    weights = {f"_orig_mod.{name}": value for name, value in checkpoint.iter_weights(compiled)}
    save_file(weights, compiled / "model.safetensors")
    names = {"model": compiled, "data": data / "speak.train.jsonl", "master": "bf16"}
    (tmp_path / "train.toml").write_text(TRAIN.format(out=out, **names))
    said = run("ttt_ref.train.cli", tmp_path / "train.toml").stderr
    assert "note: weights are stored under '_orig_mod.'" in said
    assert torch.isfinite(checkpoint.load(out / "model").model.model.embed_tokens.weight).all()


def test_bad_recordings_are_named_counted_and_passed_over(base: Path, tmp_path: Path) -> None:
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    corpus.mkdir()
    tone(corpus / "good.wav", 0)
    tone(corpus / "eight.wav", 1, "PCM_U8")
    (corpus / "noise.wav").write_bytes(b"no sound")
    lines = [{"file": f"{n}.wav", "text": n} for n in ("good", "eight", "noise", "gone")]
    lines.append({"file": "good.wav", "text": ""})
    text = "\n".join(json.dumps(line) for line in lines)
    (corpus / "metadata.jsonl").write_text(text)
    said = prepare(base, corpus, out, code=2)
    assert "no transcript" in said
    assert "--skip-bad" in said
    assert not out.exists()
    said = prepare(base, corpus, out, "--skip-bad", "--held-out", "0")
    for name in ("8-bit", "noise.wav is no sound file", "gone.wav is missing", "no transcript"):
        assert name in said
    assert json.loads((out / "prepare.json").read_text())["recordings"] == 1


def test_what_was_encoded_is_not_encoded_again(base: Path, tmp_path: Path) -> None:
    """A stop leaves a hidden folder; its codes are taken as they stand."""
    out, work = tmp_path / "out", tmp_path / ".out.partial"
    work.mkdir()
    plan = {"corpus": str(base / "corpus"), "codec": str(base / "codec")}
    (work / "plan.json").write_text(json.dumps(plan))
    first = {"key": "2:0.wav", "codes": [7, 7], "answer": []}
    (work / "codes.jsonl").write_text(json.dumps(first) + '\n{"key": "3:1.w')
    prepare(base, base / "corpus", out, "--held-out", "0")
    assert not work.exists()
    codes = [json.loads(line) for line in (out / "codes.jsonl").read_text().splitlines()]
    assert codes[0] == first
    assert len(codes) == RECORDINGS


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "is empty"),
        ({"notes.txt": b"x"}, "none of the known layouts"),
        ({"metadata.csv": b"file,text\n1.wav,caf\xe9\n"}, "not UTF-8"),
        ({"metadata.csv": b"a,b\n1,2\n"}, "has the columns a, b"),
        ({"metadata.jsonl": b"{"}, "not valid JSON"),
        ({"x.parquet": b"no"}, "no readable parquet"),
    ],
)
def test_corpora_that_cannot_be_used(base, tmp_path, files, expected) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, content in files.items():
        (corpus / name).write_bytes(content)
    said = prepare(base, corpus, tmp_path / "out", code=2)
    assert expected in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()
