"""Files that harm a program, given to the real commands: one line, code 2, soon, little memory.

Each row stands for a kind; the commands run in this process, on a copy of the shipped bundle, of a
toy checkpoint or of a training file with one thing changed.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ttt_export.cli import app as export_app
from ttt_ref.command_line import run_app
from ttt_ref.random_weights import random_checkpoint
from ttt_ref.train import cli as train_cli
from ttt_runtime.cli.assistant import app as assistant_app
from ttt_runtime.cli.doctor import app as doctor_app

SHIPPED = Path(__file__).parents[1] / "runtime/ttt_runtime/bundles/tiny"
QUESTION = Path(__file__).parents[1] / "samples/question.wav"
DIGITS = "1" * 5000
DEEP = "[" * 100_000
Change = Callable[[Path], Any]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Run a command; it must end with one line and exit code 2, in seconds, in 150 MB."""

    def call(app: Any, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
        tracemalloc.start()
        began = time.process_time()
        with pytest.raises(SystemExit) as caught:
            run_app(app)
        took = time.process_time() - began
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        lines = capfd.readouterr().err.splitlines(keepends=True)
        # The exporter says what it is doing.
        err = "".join(line for line in lines if not line.startswith("... "))
        assert (caught.value.code, err.count("\n")) == (2, 1), err
        assert err.startswith("error: ")
        assert err.isprintable() or err[:-1].isprintable()
        assert took < 20
        assert peak < 150 << 20
        return err

    return call


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The shipped bundle; its large files are links inside a folder of their own."""
    return Path(shutil.copytree(SHIPPED, tmp_path / "tiny"))


def manifest(path: str, value: object) -> Change:
    """Set one value of ttt_config.json; text `RAW:x` is written as x."""

    def change(bundle: Path) -> None:
        file = bundle / "ttt_config.json"
        config: Any = json.loads(file.read_text())
        here = config
        *keys, last = path.split("/")
        for key in keys:
            here = here[int(key) if isinstance(here, list) else key]
        here[int(last) if isinstance(here, list) else last] = value
        text = json.dumps(config)
        if isinstance(value, str) and value.startswith("RAW:"):
            text = text.replace(json.dumps(value), value[4:])
        file.write_text(text)

    return change


def content(name: str, data: str | bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(
        data.encode() if isinstance(data, str) else data
    )


def special(name: str, kind: str) -> Change:
    """Put a pipe, a device, a link to itself or a folder in a file's place."""

    def change(folder: Path) -> None:
        path = folder / name
        path.unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to({"loop": name, "zero": "/dev/zero", "mem": "/proc/self/mem"}[kind])

    return change


CODEC = "codec/params"
BUNDLES: dict[str, Change] = {
    **{f"{kind} as manifest": special("ttt_config.json", kind) for kind in ("pipe", "zero", "mem")},
    "loop as manifest": special("ttt_config.json", "loop"),
    "folder as manifest": special("ttt_config.json", "folder"),
    "pipe as a graph": special("decoder.onnx", "pipe"),
    "loop as a graph": special("decoder.onnx", "loop"),
    "zero as weights": special("decoder.onnx.data", "zero"),
    "deep manifest": content("ttt_config.json", DEEP),
    "bytes as manifest": content("ttt_config.json", b"\xff{}"),
    "many values": content("ttt_config.json", "[" + "{}," * 500_000 + "1]"),
    "digits": manifest("model/hidden_size", f"RAW:{DIGITS}"),
    "infinity": manifest("model/rope_theta", "RAW:Infinity"),
    "steps": manifest("presets/tiny/diffusion_steps", 10**12),
    "length": manifest("presets/tiny/diffusion_gen_length", 2**70),
    "layers": manifest("model/num_hidden_layers", 2**70),
    "heads": manifest("model/num_key_value_heads", 2**31 - 1),
    "vocabulary": manifest("layout/vocab_size", 2**24),
    "rotary": manifest("graphs/decoder/spec/attributes/rotary_rows", "RAW:NaN"),
    "rotary -1": manifest("graphs/decoder/spec/attributes/rotary_rows", -1),
    "head": manifest("graphs/text_head/spec/outputs/0/shape", ["N"]),
    "head []": manifest("graphs/text_head/spec/outputs/0/shape", []),
    "head R": manifest("graphs/speech_head/spec/outputs/0/shape", ["N", "R"]),
    "cold": manifest("presets/tiny/ar_temperature", 1e-40),
    "name": manifest("name", "a\x1b[2Jb"),
    "fft": manifest(f"{CODEC}/decoder/fft_samples", 2**28),
    "ahead": manifest(f"{CODEC}/decoder/look_ahead_tokens", 10**6),
    "far ahead": manifest(f"{CODEC}/tokenizer/look_ahead_tokens", 2**31 - 1),
    "pad": manifest(f"{CODEC}/tokenizer/pad_samples", 1_900_000_000),
    "rate": manifest(f"{CODEC}/tokenizer/sample_rate_hz", 2**31 - 1),
    "slow": manifest(f"{CODEC}/decoder/sample_rate_hz", 1),
    "codes": manifest(f"{CODEC}/tokenizer/num_codes", 7),
    "hop": manifest(f"{CODEC}/tokenizer/hop_samples", 3),
    "bins": manifest("codec/graphs/speech_tokenizer/spec/inputs/0/shape", [1, "F", 9]),
    "state": manifest("codec/graphs/speech_decoder/spec/inputs/1/shape", [1 << 20, 1 << 20, 9]),
    "front end": manifest(f"{CODEC}/audio_front_end", {"longest_s": 1e300}),
    "codec text": manifest(f"{CODEC}/decoder", "text"),
    "graph's words": manifest(
        "graphs/decoder/spec/attributes/session.set_denormal_as_zero", "1" * 10_000
    ),
}


@pytest.mark.parametrize("kind", BUNDLES)
def test_bundles(refused: Any, bundle: Path, kind: str) -> None:
    BUNDLES[kind](bundle)
    refused(assistant_app, "answer", QUESTION, "--bundle", bundle)


@pytest.mark.parametrize("kind", ["pipe as manifest", "deep manifest", "layers"])
def test_bundles_in_the_doctor(refused: Any, bundle: Path, kind: str) -> None:
    BUNDLES[kind](bundle)
    refused(doctor_app, "--bundle", bundle)


def test_graphs_that_are_others_say_their_file(refused: Any, bundle: Path) -> None:
    """The codec's graphs exchanged: onnxruntime's own complaints stay out of stderr."""
    config = json.loads((bundle / "ttt_config.json").read_text())
    graphs, files = config["codec"]["graphs"], config["files"]
    one, other = (graphs[name]["file"] for name in ("speech_tokenizer", "speech_decoder"))
    graphs["speech_tokenizer"]["file"], graphs["speech_decoder"]["file"] = other, one
    assert {one, other} <= files.keys()
    (bundle / "ttt_config.json").write_text(json.dumps(config))
    assert Path(other).name in refused(assistant_app, "answer", QUESTION, "--bundle", bundle)


@pytest.mark.parametrize("threads", [1025, 10**9, 2**70])
def test_threads(refused: Any, threads: int) -> None:
    refused(assistant_app, "answer", QUESTION, "--threads", threads)


def wav(channels: int, rate: int, data_bytes: int) -> bytes:
    return b"RIFF" + struct.pack("<I", 36 + data_bytes) + b"WAVEfmt " + struct.pack(
        "<IHHIIHH", 16, 1, channels, rate, rate * channels * 2 % 2**32, channels * 2 % 2**16, 16
    ) + b"data" + struct.pack("<I", data_bytes)  # fmt: skip


@pytest.mark.parametrize(
    ("channels", "rate"),
    [(1024, 768_000), (65, 192_000), (1, 2**31 - 1), (1000, 8000), (64, 768_000)],
)
def test_wide_sparse_sound(refused: Any, tmp_path: Path, channels: int, rate: int) -> None:
    path = tmp_path / "wide.wav"
    size = 3 << 30
    with path.open("wb") as file:
        file.write(wav(channels, rate, size))
        file.truncate(44 + size)
    assert "wide.wav" in refused(assistant_app, "answer", path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    random_checkpoint(folder, "tiny", seed=0)
    return folder


def config(**changes: object) -> Change:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


def header(text: str | bytes) -> Change:
    data = text.encode() if isinstance(text, str) else text
    return content("model.safetensors", struct.pack("<Q", len(data)) + data)


CHECKPOINTS: dict[str, Change] = {
    **{
        f"{kind} as config": special("config.json", kind)
        for kind in ("pipe", "zero", "mem", "loop")
    },
    **{
        f"{kind} as tokenizer": special("tokenizer.json", kind)
        for kind in ("pipe", "zero", "folder")
    },
    "pipe as weights": special("model.safetensors", "pipe"),
    "zero as weights": special("model.safetensors", "zero"),
    "pipe as index": special("model.safetensors.index.json", "pipe"),
    "deep index": content("model.safetensors.index.json", DEEP),
    "deep config": content("config.json", DEEP),
    "digits config": content("config.json", '{"hidden_size": ' + DIGITS + "}"),
    "bytes config": content("config.json", b'{"a": "\xff"}'),
    "list config": content("config.json", "[1]"),
    "architectures": config(architectures=5),
    "architectures text": config(architectures="x" * 5000),
    "layers": config(num_hidden_layers=2**70),
    "layers 10^6": config(num_hidden_layers=10**6),
    "width": config(hidden_size=2**40),
    "heads": config(num_attention_heads=0),
    "vocabulary": config(vocab_size=2**60),
    "theta": config(rope_theta=10**400),
    "tokenizer deep": content("tokenizer.json", DEEP),
    "tokenizer digits": content("tokenizer.json", '{"added_tokens": [' + DIGITS + "]}"),
    "tokenizer bytes": content("tokenizer.json", b"\xff\xfe\xff"),
    "header deep": header(DEEP),
    "header digits": header('{"a": ' + DIGITS + "}"),
    "header bytes": header(b"\xff\xff"),
    "header list": header("[]"),
    "header shape": header('{"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]}}'),
    "calibration deep": content("calibration.jsonl", DEEP + "\n"),
    "calibration digits": content("calibration.jsonl", '{"ids": [' + DIGITS + "]}\n"),
    "calibration bytes": content("calibration.jsonl", b"\xff\n"),
    "calibration pipe": special("calibration.jsonl", "pipe"),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_checkpoints(refused: Any, checkpoint: Path, tmp_path: Path, kind: str) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    CHECKPOINTS[kind](folder)
    refused(export_app, "-m", folder, tmp_path / "out", "-p", "int8")
    assert not (tmp_path / "out").exists()


TRAINING: dict[str, str | bytes | Change] = {
    "deep": "a = " + DEEP,
    "digits": f"seed = {DIGITS}",
    "bytes": b"output_dir = '\xff'",
    "long key": "a" + ".a" * 30_000 + " = 1",
    "length": "[batch]\nmax_length = 1000000000000",
    "threads": "threads = 1000000000",
    "rate": "[optimizer]\nlearning_rate = inf",
    "seed": "seed = -1",
    "rank": "[lora]\nrank = 100000000000",
    "layers": "[model]\nnum_hidden_layers = 10000000000000",
    "pool": "[batch]\npool_examples = 1000000000000",
    "nan": "[objective]\ntext_loss_weight = nan",
    "pipe": special("run.toml", "pipe"),
    "zero": special("run.toml", "zero"),
    "records deep": DEEP,
}


@pytest.mark.parametrize("kind", [kind for kind in TRAINING if not kind.startswith("records")])
def test_training_files(refused: Any, tmp_path: Path, kind: str) -> None:
    what = TRAINING[kind]
    if callable(what):
        what(tmp_path)
    else:
        content("run.toml", what)(tmp_path)
    refused(train_cli.app, tmp_path / "run.toml")
