"""`ttt-export` with both halves of the GLM-4-Voice codec, used where there is no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.processes import environment
from ttt_export.cli import main
from ttt_export.codec_export import CODEC_REPORT_FILE
from ttt_ref.codec.glm4voice.codec import Glm4VoiceTokenizer
from ttt_ref.codec.glm4voice.weights import load_tokenizer
from ttt_ref.random_weights import random_checkpoint
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.codec.factory import load_codec
from ttt_runtime.profiler.glm4voice.times import speechlike

# What a device does: no torch, and nothing of the exporter, can be imported.
ON_A_DEVICE = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "onnx", "safetensors", "ttt_export"):
            raise ImportError(f"{name} is not on the device")

sys.meta_path.insert(0, Block())
import json
import numpy as np
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.codec.factory import load_codec
from ttt_runtime.profiler.glm4voice.times import speechlike

tokenizer, decoder = load_codec(Bundle.open(sys.argv[1], verify="hashes"), threads=1)
audio = speechlike(5.0)
codes = tokenizer.encode(audio)
ear, mouth = tokenizer.stream(), decoder.stream()
heard = [ear.push(audio[a : a + 1600]) for a in range(0, len(audio), 1600)] + [ear.finish()]
spoken = [mouth.push(codes[a : a + 7]) for a in range(0, len(codes), 7)] + [mouth.finish()]
whole = decoder.decode(codes)
np.save(sys.argv[2], np.concatenate(spoken))
print(json.dumps({
    "codes": codes.tolist(),
    "streamed": np.concatenate(heard).tolist(),
    "samples": [len(whole), sum(map(len, spoken))],
    "rms": float(np.sqrt(np.mean(whole**2))),
}))
"""


def export(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["ttt-export", *map(str, arguments)])
    with pytest.raises(SystemExit) as done:
        main()
    return int(done.value.code or 0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    random_checkpoint(tmp_path / "model", "tiny")
    return tmp_path / "model"


def test_round_trip_from_folder_and_hub(tiny_codec, model, tmp_path, monkeypatch, capsys) -> None:
    asked = []

    def download(name: str, **options: object) -> str:
        asked.append(name)
        return str(tiny_codec / "decoder")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    halves = ("--speech-tokenizer", tiny_codec / "tokenizer", "--speech-decoder", "org/decoder")
    out = tmp_path / "out"
    assert export(monkeypatch, "-m", model, "-p", "int8", "-e", "cpu", *halves, out) == 0
    assert asked == ["org/decoder"]
    assert "codec in int8, against torch: token_agreement" in capsys.readouterr().out
    report = json.loads((out / "export_report.json").read_text())["codec"]
    assert report == json.loads((out / CODEC_REPORT_FILE).read_text())
    assert report["difference"]["token_agreement"] >= 0.85

    sound = tmp_path / "sound.npy"
    done = subprocess.run(
        [sys.executable, "-c", ON_A_DEVICE, str(out), str(sound)],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    device = json.loads(done.stdout)
    codes = np.array(device["codes"])
    reference = Glm4VoiceTokenizer(load_tokenizer(tiny_codec / "tokenizer"))
    import torch

    want = reference.encode(torch.from_numpy(speechlike(5.0))).numpy()
    assert np.mean(codes == want) >= 0.85
    assert device["streamed"] == device["codes"]
    assert device["samples"] == [len(codes) * 441 // 64 * 256] * 2
    assert device["rms"] > 1e-3
    stream = load_codec(Bundle.open(out), threads=1)[1].stream()
    here = np.concatenate((stream.push(codes), stream.finish()))
    assert np.abs(here - np.load(sound)).max() < 1e-6


def test_one_half_alone_is_refused(tiny_codec, model, tmp_path, monkeypatch, capsys) -> None:
    half = ("--speech-tokenizer", tiny_codec / "tokenizer")
    assert export(monkeypatch, "-m", model, *half, tmp_path / "out") == 2
    assert "belong together" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_recipe_decides_the_codec(tiny_codec, model, tmp_path, monkeypatch) -> None:
    """A recipe of one's own may keep the codec finer than the model."""
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'name = "mine"\ncompute = "float32"\nembeddings = "int8"\ncodec = "fp32"\n'
        'gates = { max_kl = 9, min_agreement = 0 }\n[[rule]]\nmatch = "*"\nkind = "int8"\n'
        "block = 32\n"
    )
    halves = ("--speech-tokenizer", tiny_codec / "tokenizer")
    halves += ("--speech-decoder", tiny_codec / "decoder")
    out = tmp_path / "out"
    assert export(monkeypatch, "-m", model, "-p", "int8", "--recipe", recipe, *halves, out) == 0
    report = json.loads((out / CODEC_REPORT_FILE).read_text())
    assert report["precision"] == "fp32"
    assert report["difference"]["token_agreement"] == 1.0
