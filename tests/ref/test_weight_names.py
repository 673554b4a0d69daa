"""Checkpoints as torch.compile, DDP and peft write them; tied ones with another output layer."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from ttt_export.export import export_checkpoint
from ttt_export.options import ExportOptions
from ttt_export.source import open_checkpoint
from ttt_export.weights import tensor
from ttt_ref import checkpoint
from ttt_ref.errors import CheckpointError
from ttt_ref.random_weights import random_checkpoint
from ttt_ref.train.config import ModelSection
from ttt_ref.train.start import make_start
from ttt_ref.weight_names import wrapper_prefix

PREFIXES = ["_orig_mod.", "module.", "base_model.model.", "module._orig_mod.base_model.model."]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("names") / "tiny"
    random_checkpoint(folder, "tiny")
    return folder


def renamed(original, folder, change):
    """Copy a checkpoint with its table of weights changed."""
    shutil.copytree(original, folder)
    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", {checkpoint.RANDOM_MARK: "1"})
    return folder


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_wrappers_prefix_is_left_out_and_said(original, tmp_path, prefix):
    """They were refused: "38 weights are missing ... download the checkpoint again"."""
    folder = renamed(
        original, tmp_path / "wrapped", lambda w: {prefix + name: v for name, v in w.items()}
    )
    want = checkpoint.load(original).model.state_dict()
    got = checkpoint.load(folder).model.state_dict()
    assert all(torch.equal(got[name], value) for name, value in want.items())
    opened = open_checkpoint(folder)
    (note,) = opened.notes
    assert repr(prefix) in note
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(torch.from_numpy(tensor(opened.weights, name)), want[name])
    assert make_start(ModelSection(checkpoint=str(folder)), 0).notes == opened.notes


def test_an_export_says_it_in_one_line(original, tmp_path):
    folder = renamed(
        original, tmp_path / "wrapped", lambda w: {f"module.{name}": v for name, v in w.items()}
    )
    said = []
    export_checkpoint(folder, tmp_path / "out", options=ExportOptions("fp32"), progress=said.append)
    assert [line for line in said if "module." in line] == [
        "note: weights are stored under 'module.', as a wrapper wrote them; that prefix is left out"
    ]


def test_the_original_has_no_notes(original):
    assert open_checkpoint(original).notes == ()
    assert checkpoint.read_notes(original) == []


def test_a_prefix_that_only_some_names_have_stays(original, tmp_path):
    def change(weights):
        first = min(weights)
        return {f"module.{n}" if n == first else n: v for n, v in weights.items()}

    with pytest.raises(CheckpointError, match="missing"):
        open_checkpoint(renamed(original, tmp_path / "mixed", change))


def test_an_adapter_that_is_not_merged_is_refused_with_the_way_out(original, tmp_path):
    def change(weights):
        name = "model.layers.0.self_attn.q_proj"
        weights[f"{name}.base_layer.weight"] = weights.pop(f"{name}.weight")
        weights[f"{name}.lora_A.default.weight"] = torch.zeros(2, 4)
        return {f"base_model.model.{n}": v for n, v in weights.items()}

    folder = renamed(original, tmp_path / "peft", change)
    for read in (open_checkpoint, checkpoint.load):
        with pytest.raises(CheckpointError, match="merge_and_unload"):
            read(folder)


def test_a_tied_checkpoint_with_another_output_layer_is_told(original, tmp_path):
    """It was left out without a word."""
    config = checkpoint.read_model_config(original)
    assert config.tie_word_embeddings
    table = "model.embed_tokens.weight"
    same = renamed(original, tmp_path / "same", lambda w: {**w, "lm_head.weight": w[table].clone()})
    assert open_checkpoint(same).notes == ()
    assert checkpoint.read_notes(same) == []
    other = renamed(original, tmp_path / "other", lambda w: {**w, "lm_head.weight": w[table] + 1})
    for notes in (open_checkpoint(other).notes, checkpoint.read_notes(other)):
        (note,) = notes
        assert "tie_word_embeddings" in note


def test_no_names_have_no_prefix(tmp_path):
    assert wrapper_prefix([], tmp_path) == ""
    assert wrapper_prefix(["module.a", "b"], tmp_path) == ""
