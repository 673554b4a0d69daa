from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch

from ttt_ref import checkpoint, random_weights
from ttt_ref.config import GenerationConfig, TokenLayout
from ttt_ref.errors import CheckpointError, ConfigError
from ttt_ref.generate import generate
from ttt_ref.random_weights import LIKES, make_tokenizer, random_checkpoint, weight_sizes


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line in this process; gives exit code, stdout and stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["ttt-random", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            random_weights.main()
        return caught.value.code or 0, *capsys.readouterr()

    return call


def test_tiny_checkpoint_loads_and_generates(tiny_folder):
    model, tokenizer, layout = checkpoint.load(tiny_folder)
    config = checkpoint.read_config(tiny_folder)
    assert config["architectures"] == ["Qwen2ForARDiffLM"]
    assert config["unmasked_audio_prob"] == 0.1
    assert config["audio_token_id_start"] == layout.audio_start == 262
    prompt = tokenizer.encode("<|im_start|>user\nhé<|im_end|>\n").ids
    assert tokenizer.decode(prompt, skip_special_tokens=False).endswith("hé<|im_end|>\n")
    new_ids = generate(model, layout, prompt, GenerationConfig(max_gen_len=5))
    assert all(0 <= token < layout.vocab_size for token in new_ids)


def test_seed_decides_the_weights(tmp_path, tiny_folder):
    for name, seed in (("same", 3), ("other", 4)):
        random_checkpoint(tmp_path / name, "tiny", seed=seed)
    first, same, other = (
        checkpoint.load(folder).model.state_dict()
        for folder in (tiny_folder, tmp_path / "same", tmp_path / "other")
    )
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])
    assert first["model.layers.0.mlp.up_proj.weight"].std().item() == pytest.approx(0.02, rel=0.1)
    assert first["model.layers.0.self_attn.k_proj.bias"].abs().sum() > 0
    assert first["model.norm.weight"].eq(1).all()


def test_shards_and_dtype(tmp_path, monkeypatch):
    monkeypatch.setattr(random_weights, "SHARD_BYTES", 60_000)
    monkeypatch.setattr(random_weights, "CHUNK_VALUES", 1000)
    done = []
    random_checkpoint(tmp_path / "out", "tiny", dtype="bfloat16", progress=done.append)
    shards = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 3
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(shards)
    assert index["metadata"]["total_size"] == sum(done)
    model = checkpoint.load(tmp_path / "out", dtype=None).model
    assert {value.dtype for value in model.state_dict().values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("like", "billions"), [("qwen2.5-0.5b", 0.5), ("qwen2.5-1.5b", 1.6), ("qwen2.5-3b", 3.1)]
)
def test_published_sizes(like, billions):
    """Shapes only: nothing of this size is made in a test."""
    config = LIKES[like].model_config()
    sizes = weight_sizes(config, torch.bfloat16)
    assert sum(sizes.values()) / 2 / 1e9 == pytest.approx(billions, abs=0.06)
    assert config.vocab_size == 168_072
    assert "lm_head.weight" not in sizes
    assert sizes["model.embed_tokens.weight"] == 168_072 * config.hidden_size * 2


def test_published_3b_shape():
    config = LIKES["qwen2.5-3b"].model_config()
    assert (config.hidden_size, config.num_hidden_layers, config.head_dim) == (2048, 36, 128)
    assert (config.num_attention_heads, config.num_key_value_heads) == (16, 2)


def test_published_vocabulary():
    shape = LIKES["qwen2.5-3b"]
    tokenizer = make_tokenizer(shape.regular_tokens, shape.specials())
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    layout = TokenLayout.from_vocab(vocab, {"vocab_size": 168_072})
    assert len(vocab) == 168_072
    assert layout.audio_start == 151_684
    assert (layout.code_offset, layout.num_codes) == (151_685, 16_384)
    assert layout.mask_id == 168_069
    assert layout.end_ids == (168_070, 168_071)
    assert (layout.pad_id, layout.im_start_id, layout.im_end_id) == (151_643, 151_644, 151_645)
    text = "Any text, ünïcode 你好 12 <|audio_16383|>"
    ids = tokenizer.encode(text).ids
    assert ids[-1] == 168_068
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert len(ids) < len(text.encode())


def test_command_line(tmp_path, run):
    out = tmp_path / "out"
    assert run("--like", "tiny", "--seed", "3", out) == (0, f"{out}: tiny, 1 MB\n", "")
    refusal = f"error: {out} exists already; choose another name or overwrite\n"
    assert run(out) == (2, "", refusal)
    assert run(out, "--force")[0] == 0
    assert run("--like", "huge", tmp_path / "other")[0] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_unknown_choices(tmp_path):
    with pytest.raises(ConfigError, match="'huge'; choose one of tiny, "):
        random_checkpoint(tmp_path / "out", "huge")
    with pytest.raises(ConfigError, match="'int3'"):
        random_checkpoint(tmp_path / "out", "tiny", dtype="int3")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_told_before_writing(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match="are needed"):
        random_checkpoint(tmp_path / "out", "tiny")
    assert list(tmp_path.iterdir()) == []


def test_failure_while_writing_leaves_nothing(tmp_path):
    def fail(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        random_checkpoint(tmp_path / "out", "tiny", progress=fail)
    assert list(tmp_path.iterdir()) == []
