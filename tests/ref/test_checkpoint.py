from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from ttt_ref import checkpoint
from ttt_ref.errors import CheckpointError
from ttt_ref.tokenizer_files import load_tokenizer


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(tiny_folder, tmp_path / "copy")


def edit_config(folder, **changes):
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in config.items() if v != "remove"}))


def same_weights(one, other):
    first, second = one.state_dict(), other.state_dict()
    return list(first) == list(second) and all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("shard_bytes", [checkpoint.SHARD_BYTES, 100_000])
def test_saved_checkpoint_reads_back(golden_checkpoints, tmp_path, shard_bytes):
    """Tied and untied, one file or many; key names are the released ones."""
    for source in golden_checkpoints:
        model, tokenizer, layout = checkpoint.load(source)
        out = tmp_path / source.name
        checkpoint.save(
            out, model, tokenizer, layout, extra_config={"ttt_codec": 1}, shard_bytes=shard_bytes
        )
        again = checkpoint.load(out)
        assert same_weights(model, again.model)
        assert again.layout == layout
        assert again.tokenizer.get_vocab() == tokenizer.get_vocab()
        assert checkpoint.read_config(out)["ttt_codec"] == 1
        released = load_file(source / "model.safetensors")
        assert set(released) == set(model.state_dict())
        assert ("lm_head.weight" in released) != model.config.tie_word_embeddings
        assert (out / "model.safetensors.index.json").exists() == (shard_bytes < 1_000_000)


def test_save_copies_tokenizer_files_and_leaves_nothing_behind(golden_checkpoints, tmp_path):
    source = golden_checkpoints[0]
    model, _, layout = checkpoint.load(source)
    checkpoint.save(tmp_path / "out", model, source, layout)
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
    with pytest.raises(CheckpointError, match="exists already"):
        checkpoint.save(tmp_path / "out", model, source, layout)
    with pytest.raises(CheckpointError, match="no tokenizer files"):
        checkpoint.save(tmp_path / "other", model, tmp_path, layout)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_dtype_of_the_weights(tiny_folder):
    model = checkpoint.load(tiny_folder, dtype=torch.bfloat16).model
    assert {value.dtype for value in model.state_dict().values()} == {torch.bfloat16}


def test_tokenizer_from_vocab_and_merges(golden_checkpoints, tmp_path):
    """Folders without tokenizer.json give the same tokens."""
    for source in golden_checkpoints:
        whole = load_tokenizer(source)
        for files in (
            ("vocab.json", "merges.txt", "tokenizer_config.json"),
            ("vocab.json", "merges.txt", "added_tokens.json"),
        ):
            parts = tmp_path / f"{source.name}-{files[-1]}"
            parts.mkdir()
            for name in files:
                shutil.copyfile(source / name, parts / name)
            built = load_tokenizer(parts)
            assert built.get_vocab() == whole.get_vocab()
            text = "e\u0301 ü 12 don't\n\n x<|audio_3|><|im_end|>\n"
            assert built.encode(text).ids == whole.encode(text).ids
            assert built.decode(built.encode(text).ids, skip_special_tokens=False) == (
                whole.decode(whole.encode(text).ids, skip_special_tokens=False)
            )


def test_tied_checkpoint_that_stores_its_head_twice(folder):
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, folder / "model.safetensors")
    assert "lm_head.weight" not in checkpoint.load(folder).model.state_dict()


def damage_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def drop_norm(weights):
    del weights["model.norm.weight"]


def widen_norm(weights):
    weights["model.norm.weight"] = torch.ones(65)


def add_layer(weights):
    weights["model.layers.9.mlp.up_proj.weight"] = torch.ones(2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop_norm, "weights are missing, the first is 'model.norm.weight'"),
        (widen_norm, r"shape \[65\], config.json asks for \[64\]"),
        (add_layer, "unexpected weight 'model.layers.9"),
    ],
)
def test_weights_that_do_not_fit(folder, change, words):
    damage_weights(folder, change)
    with pytest.raises(CheckpointError, match=words):
        checkpoint.load(folder)


def truncate(name):
    def act(folder):
        file = folder / name
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return act


def remove(name):
    return lambda folder: (folder / name).unlink()


def only_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def index_pointing_outside(folder):
    index = {"weight_map": {"model.norm.weight": "../../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def index_with_missing_shard(folder):
    index = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def empty_index(folder):
    (folder / "model.safetensors.index.json").write_text("[]")


def edit_added_tokens(folder, edit):
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["added_tokens"] = [
        changed for token in content["added_tokens"] if (changed := edit(token)) is not None
    ]
    file.write_text(json.dumps(content))


def rename_token(folder):
    name = "<|begin_of_quad|>"
    edit_added_tokens(folder, lambda t: {**t, "content": "<|x|>"} if t["content"] == name else t)


def drop_token(folder):
    """The tokenizers library gives all later tokens other ids and says nothing."""
    edit_added_tokens(folder, lambda t: None if t["content"] == "<|begin_of_quad|>" else t)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (remove("config.json"), "no config.json"),
        (truncate("config.json"), "not valid JSON"),
        (remove("model.safetensors"), "no model.safetensors"),
        (truncate("model.safetensors"), "truncated or damaged"),
        (only_pickle, "pickled weights are not read"),
        (index_pointing_outside, "no safetensors file beside it"),
        (index_with_missing_shard, "shard model-00002-of-00002.safetensors is missing"),
        (empty_index, "no weight_map"),
        (remove("tokenizer.json"), "no tokenizer"),
        (truncate("tokenizer.json"), "cannot be read"),
        (drop_token, r"gives <\|audio\|> the id 262, .* would get 261"),
        (rename_token, r"has no <\|begin_of_quad\|>"),
        (lambda f: edit_config(f, architectures=["Qwen2ForCausalLM"]), "expected Qwen2ForARDiffLM"),
        (lambda f: edit_config(f, architectures="remove"), "architecture 'none'"),
        (lambda f: edit_config(f, hidden_size="wide"), "hidden_size"),
        (lambda f: edit_config(f, vocab_size=329), "outside the 329 embedding rows"),
        (lambda f: edit_config(f, mask_token=5), "mask_token is 5"),
        (lambda f: edit_config(f, vocab_size=400), r"config.json asks for \[400, 64\]"),
    ],
)
def test_damaged_checkpoints_are_refused_in_one_line(folder, act, words):
    act(folder)
    with pytest.raises(CheckpointError, match=words) as caught:
        checkpoint.load(folder)
    assert "\n" not in str(caught.value)


def test_missing_folder(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        checkpoint.load(tmp_path / "nowhere")


def test_tokenizer_larger_than_the_model(folder):
    """An id above the embedding rows would be read from beyond the table."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["added_tokens"].append({**content["added_tokens"][-1], "id": 330, "content": "<|x|>"})
    file.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="up to id 330"):
        checkpoint.load(folder)


def test_interrupted_save_leaves_the_old_checkpoint(tiny_folder, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(tiny_folder, out)

    def interrupt(staging):
        (staging / "config.json").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), checkpoint.staged_folder(out, overwrite=True) as staging:
        interrupt(staging)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert checkpoint.load(out).model.config.hidden_size == 64
