"""LoRA adapters are merged as PEFT merges them, and wrong ones are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from ttt_export.adapters import merge_adapter
from ttt_export.export import export_checkpoint
from ttt_export.options import ExportOptions
from ttt_export.source import open_checkpoint
from ttt_export.weights import CheckpointWeights, tensor
from ttt_ref.errors import CheckpointError

TARGETS = (
    "model.layers.0.self_attn.q_proj",
    "model.layers.1.self_attn.v_proj",
    "model.layers.2.mlp.down_proj",
)
RANK = 4


def write_adapter(folder, base, *, changes=None, weights=None):
    """Write an adapter in PEFT's form; `changes` go into its configuration."""
    folder.mkdir()
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "bias": "none", **(changes or {})}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    draw = np.random.default_rng(0)
    tensors = {}
    for target in TARGETS:
        rows, columns = base.shape(f"{target}.weight")
        stem = f"base_model.model.{target}"
        tensors[f"{stem}.lora_A.weight"] = draw.normal(0, 0.1, (RANK, columns)).astype("f4")
        tensors[f"{stem}.lora_B.weight"] = draw.normal(0, 0.1, (rows, RANK)).astype("f4")
    save_file(weights if weights is not None else tensors, folder / "adapter_model.safetensors")
    return tensors


@pytest.mark.parametrize(
    ("changes", "scale"), [({}, 2.0), ({"use_rslora": True}, 4.0), ({"lora_alpha": 1}, 0.25)]
)
def test_merged_weights(tied, tmp_path, changes, scale):
    base = CheckpointWeights(tied)
    tensors = write_adapter(tmp_path / "lora", base, changes=changes)
    merged = merge_adapter(base, tmp_path / "lora")
    for target in TARGETS:
        stem = f"base_model.model.{target}"
        delta = tensors[f"{stem}.lora_B.weight"] @ tensors[f"{stem}.lora_A.weight"]
        want = tensor(base, f"{target}.weight") + scale * delta
        np.testing.assert_allclose(tensor(merged, f"{target}.weight"), want, atol=1e-6)
        # A slice is the slice of the whole: the exporter reads columns in chunks.
        assert np.array_equal(merged.rows(f"{target}.weight", 3, 9), want[3:9].astype("f4"))
    untouched = "model.layers.0.mlp.up_proj.weight"
    assert np.array_equal(tensor(merged, untouched), tensor(base, untouched))


def test_export_with_adapter_equals_export_of_merged(tied, tmp_path):
    write_adapter(tmp_path / "lora", CheckpointWeights(tied))
    options = ExportOptions(adapter=tmp_path / "lora")
    out = export_checkpoint(tied, tmp_path / "out", options=options).path
    plain = export_checkpoint(tied, tmp_path / "plain").path
    assert json.loads((out / "ttt_config.json").read_text())["made_from"]["adapter"] == "lora"
    changed = (out / "decoder.onnx.data").read_bytes()
    assert changed != (plain / "decoder.onnx.data").read_bytes()


def test_saved_modules_replace_tensors(tied, tmp_path):
    base = CheckpointWeights(tied)
    new = np.full(base.shape("model.norm.weight"), 0.5, np.float32)
    weights = {"base_model.model.model.norm.modules_to_save.weight": new}
    write_adapter(tmp_path / "lora", base, weights=weights)
    merged = open_checkpoint(tied, tmp_path / "lora").weights
    assert np.array_equal(tensor(merged, "model.norm.weight"), new)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"r": 0}, "r is 0"),
        ({"r": 8}, "another model"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
    ],
)
def test_adapters_that_are_not_merged(tied, tmp_path, changes, part):
    write_adapter(tmp_path / "lora", CheckpointWeights(tied), changes=changes)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tied, tmp_path / "lora")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.model.layers.9.mlp.up_proj.lora_A.weight",
        "base_model.model.model.vision.weight",
        "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight",
    ],
)
def test_adapter_of_another_model(tied, tmp_path, name):
    base = CheckpointWeights(tied)
    write_adapter(tmp_path / "lora", base, weights={name: np.zeros((RANK, 64), np.float32)})
    with pytest.raises(CheckpointError, match="has no place"):
        open_checkpoint(tied, tmp_path / "lora")


def test_missing_adapter(tied, tmp_path):
    with pytest.raises(CheckpointError, match=r"adapter_config\.json"):
        open_checkpoint(tied, tmp_path)
