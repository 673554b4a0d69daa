"""What is wrong with a checkpoint or an option is said in one line, and nothing is left behind."""

from __future__ import annotations

import json
import shutil
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ttt_export.checks import Check, ValidationError
from ttt_export.export import export_checkpoint
from ttt_export.options import ExportOptions
from ttt_export.sequences import CALIBRATION_FILE
from ttt_export.source import find_checkpoint, open_checkpoint
from ttt_export.weights import CheckpointWeights, tensor
from ttt_ref.errors import CheckpointError, ConfigError, ExportError, TttError


@pytest.fixture
def copy(tied, tmp_path):
    """A checkpoint that a test may damage, alone in its folder's neighbourhood."""
    folder = tmp_path / "models" / "damaged"
    shutil.copytree(tied, folder)
    for file in folder.iterdir():
        file.chmod(0o644)
    return folder


def refused(checkpoint, tmp_path, kind=TttError, **options):
    """Export must fail with one line; nothing may be left where the bundle would be."""
    out = tmp_path / "bundles" / "out"
    with pytest.raises(kind) as caught:
        export_checkpoint(checkpoint, out, options=ExportOptions(**options))
    assert "\n" not in str(caught.value)
    left = list(out.parent.iterdir()) if out.parent.exists() else []
    assert left == []
    return str(caught.value)


def edit(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def shards(folder):
    """Split the weights into three files with an index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    weight_map = {}
    for number in range(3):
        file = f"model-{number + 1:05d}-of-00003.safetensors"
        part = {name: weights[name] for name in names[number::3]}
        save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_name_their_weight(copy, tmp_path, value):
    """The export went on to its checks, which failed with "max diff nan"."""
    name = "model.layers.1.mlp.down_proj.weight"
    weights = load_file(copy / "model.safetensors")
    weights[name][2, 3] = value
    save_file(weights, copy / "model.safetensors")
    text = refused(copy, tmp_path, CheckpointError, precision="int4")
    assert f"weight {name} holds 1 values that are NaN or infinite" in text


def test_a_value_beyond_float16_names_its_weight_and_the_way_out(copy, tmp_path):
    name = "model.layers.0.self_attn.q_proj.weight"
    weights = load_file(copy / "model.safetensors")
    weights[name][0, 0] = -7e4
    save_file(weights, copy / "model.safetensors")
    text = refused(copy, tmp_path, ExportError, precision="fp16", engine="cuda")
    assert f"weight {name} holds 7e+04, float16 ends at 65504; choose -p bf16" in text


def test_checks_that_give_nan_say_what_overflows():
    failed = Check("decoder, text steps", float("nan"), float("nan"), 1e-4)
    good = Check("decoder, prefill", 1e-6, 1e-7, 1e-4)
    text = str(ValidationError([good, failed]))
    assert "in float16 activations overflow: choose -p bf16" in text
    assert text.index("text steps") < text.index("prefill")  # what failed comes first


def test_missing_folder(tmp_path):
    assert "no checkpoint folder" in refused(tmp_path / "nowhere", tmp_path, CheckpointError)


def test_no_config(copy, tmp_path):
    (copy / "config.json").unlink()
    assert "config.json" in refused(copy, tmp_path, CheckpointError)


def test_wrong_architecture(copy, tmp_path):
    edit(copy, lambda c: c.update(architectures=["LlamaForCausalLM"]))
    assert "LlamaForCausalLM" in refused(copy, tmp_path, CheckpointError)


def test_missing_shard(copy, tmp_path):
    shards(copy)
    (copy / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003" in refused(copy, tmp_path, CheckpointError)


def test_index_that_leads_outside(copy, tmp_path):
    shards(copy)
    index = copy / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00002", "../../model-00002"))
    assert "../../model-00002" in refused(copy, tmp_path, CheckpointError)


def test_shards_are_read_like_one_file(copy, tied):
    shards(copy)
    whole, split = CheckpointWeights(tied), CheckpointWeights(copy)
    assert sorted(whole.names()) == sorted(split.names())
    for name in whole.names():
        assert np.array_equal(tensor(whole, name), tensor(split, name))


@pytest.mark.parametrize("keep", [0, 5, 100, -1, -5000])
def test_truncated_weights(copy, tmp_path, keep):
    file = copy / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:keep])
    assert "model.safetensors" in refused(copy, tmp_path, CheckpointError)


def test_hostile_header_length(copy, tmp_path):
    file = copy / "model.safetensors"
    file.write_bytes(struct.pack("<Q", 2**63) + file.read_bytes()[8:])
    assert "header" in refused(copy, tmp_path, CheckpointError)


def test_missing_special_token(copy, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json", "added_tokens.json"):
        file = copy / name
        file.write_text(file.read_text().replace("<|end_of_audio_span_last|>", "<|something|>"))
    message = refused(copy, tmp_path, CheckpointError)
    assert "<|end_of_audio_span_last|>" in message


def test_ids_out_of_range(copy, tmp_path):
    edit(copy, lambda c: c.update(vocab_size=c["vocab_size"] - 1))
    message = refused(copy, tmp_path, CheckpointError)
    assert "329" in message or "330" in message


def test_config_contradicts_tokenizer(copy, tmp_path):
    edit(copy, lambda c: c.update(mask_token=c["mask_token"] + 1))
    assert "mask_token" in refused(copy, tmp_path, CheckpointError)


def test_config_contradicts_weights(copy, tmp_path):
    edit(copy, lambda c: c.update(intermediate_size=c["intermediate_size"] * 2))
    assert "gate_proj" in refused(copy, tmp_path, CheckpointError)


def test_missing_weight(copy, tmp_path):
    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors")
    message = refused(copy, tmp_path, CheckpointError)
    assert "model.layers.1.mlp.up_proj.weight" in message


def test_integer_weights(copy, tmp_path):
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].astype(np.int32)
    save_file(weights, copy / "model.safetensors")
    assert "I32" in refused(copy, tmp_path, CheckpointError)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"precision": "int2"}, "int2"),
        ({"engine": "tpu"}, "tpu"),
        ({"precision": "fp8", "engine": "cpu"}, "fp8 with engine cpu"),
        ({"precision": "fp8", "engine": "cuda"}, "fp8 with engine cuda"),
        ({"cache_rows": 128}, "--cache-rows"),
        ({"engine": "rtx", "cache_rows": 10**6}, "--cache-rows"),
        ({"max_kl": -1.0}, "max_kl"),
        ({"min_agreement": 1.5}, "min_agreement"),
    ],
)
def test_options_that_cannot_be(tied, tmp_path, options, part):
    assert part in refused(tied, tmp_path, ConfigError, **options)


def test_half_a_codec(tied, tmp_path):
    message = refused(tied, tmp_path, ExportError, speech_tokenizer=tmp_path)
    assert "--speech-decoder" in message


@pytest.mark.parametrize("codec", [{"type": "mp3"}, {}, "builtin", {"type": "builtin"}])
def test_codec_that_is_not_there(copy, tmp_path, codec):
    edit(copy, lambda c: c.update(ttt_codec=codec))
    assert "codec" in refused(copy, tmp_path, CheckpointError)


def test_too_little_memory(tied, tmp_path, monkeypatch):
    from types import SimpleNamespace

    from ttt_export import memory_plan

    low = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=100 * 2**20))
    monkeypatch.setattr(memory_plan, "psutil", low)
    assert "0.10 GiB are available" in refused(tied, tmp_path, ExportError)


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        (["{"], "line 1"),
        (['{"ids": [1, 2]}', '{"id": 3}'], "line 2"),
        (['{"ids": [1, 100000]}', '{"ids": [1]}'], "outside"),
        (['{"ids": [1, 2]}'], "at least 2"),
        (['{"ids": [1, 2]}', '{"messages": "hello"}'], "line 2"),
        ([], "0 sequences"),
        (['{"ids": []}'], "empty"),
        (['{"ids": [1]}', '{"ids": [-1]}'], "line 2 is empty or has ids outside"),
        (['{"ids": [1e400]}'], "line 1 is neither"),  # was an OverflowError
        (['{"ids": "123"}'], "line 1 is neither"),  # was read as 1, 2, 3
        (['{"ids": [true, 1.5]}'], "line 1 is neither"),
        (['{"ids": null}'], "line 1 is neither"),
        (["7"], "line 1 is neither"),
        (['{"messages": [{"role": "user", "content": null}]}'], "line 1 is neither"),
    ],
)
def test_wrong_sequences(copy, tmp_path, lines, part):
    """Given ones and the checkpoint's own are read alike."""
    file = tmp_path / "sequences.jsonl"
    file.write_text("\n".join(lines))
    assert part in refused(copy, tmp_path, ExportError, sequences=file)
    shutil.copyfile(file, copy / CALIBRATION_FILE)
    assert CALIBRATION_FILE in (message := refused(copy, tmp_path, ExportError))
    assert part in message


def test_names_that_are_neither_folder_nor_hub():
    for name in ("no/such/place", "just-a-name", "./missing", "a/"):
        with pytest.raises(CheckpointError, match="no checkpoint folder"):
            find_checkpoint(name)


def test_hub_name_without_network(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint("some-org/some-model", local_files_only=True)
    assert "\n" not in str(caught.value)
    assert "offline" in str(caught.value)


def test_revision_of_a_folder(tied):
    with pytest.raises(CheckpointError, match="--revision"):
        find_checkpoint(str(tied), revision="main")


@pytest.mark.parametrize(("dtype", "rtol"), [("float16", 1e-3), ("bfloat16", 8e-3)])
def test_half_precision_checkpoint_is_read(copy, tied, dtype, rtol):
    import torch
    from safetensors.torch import save_file as save_tensors

    weights = load_file(copy / "model.safetensors")
    narrow = {k: torch.from_numpy(v).to(getattr(torch, dtype)) for k, v in weights.items()}
    save_tensors(narrow, copy / "model.safetensors")
    got = open_checkpoint(copy).weights
    want = open_checkpoint(tied).weights
    name = "model.layers.0.mlp.down_proj.weight"
    np.testing.assert_allclose(tensor(got, name), tensor(want, name), rtol=rtol, atol=1e-6)
