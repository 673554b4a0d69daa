from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from ttt_ref.config import GenerationConfig, ModelConfig, TokenLayout, code_token
from ttt_ref.errors import ConfigError

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 330,
}
HF = {**SHAPE, "architectures": ["Qwen2ForARDiffLM"], "model_type": "qwen2", "hidden_act": "silu"}

VOCAB = {
    "a": 0,
    "<|endoftext|>": 1,
    "<|im_start|>": 2,
    "<|im_end|>": 3,
    "<|begin_of_audio|>": 4,
    "<|end_of_audio|>": 5,
    "<|begin_of_quad|>": 6,
    "<|audio|>": 7,
    "<|audio_0|>": 8,
    "<|audio_1|>": 9,
    "<|audio_2|>": 10,
    "<|mask_token|>": 11,
    "<|end_of_audio_new|>": 12,
    "<|end_of_audio_span_last|>": 13,
}
CONFIG = {"vocab_size": 14, "audio_token_id_start": 7, "mask_token": 11}


def test_config_and_errors_need_no_other_package():
    """The runtime without torch imports these two modules."""
    code = (
        "import sys; before = set(sys.modules); import ttt_ref.config, ttt_ref.errors; "
        "new = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new - set(sys.stdlib_module_names) - {'ttt_ref'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_model_config_reads_both_forms():
    config = ModelConfig.from_dict(HF)
    assert config.head_dim == 16
    assert ModelConfig.from_dict(config.to_dict()) == config
    newer = {**HF, "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}
    assert ModelConfig.from_dict(newer).rope_theta == 1e6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM"),
        ({"model_type": "llama"}, "llama"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "yarn"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"attention_dropout": 0.1}, "attention_dropout"),
        ({"head_dim": 32}, "head_dim 32"),
        ({"num_attention_heads": 5}, "not divisible"),
        ({"num_key_value_heads": 3}, "not divisible"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"vocab_size": True}, "vocab_size"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
    ],
)
def test_model_config_refuses(change, words):
    with pytest.raises(ConfigError, match=words):
        ModelConfig.from_dict({**HF, **change})


def test_our_own_form_refuses_unknown_and_missing_keys():
    with pytest.raises(ConfigError, match="'hiden_size'"):
        ModelConfig.from_dict({**SHAPE, "hiden_size": 3})
    with pytest.raises(ConfigError, match="missing key 'vocab_size'"):
        ModelConfig.from_dict({k: v for k, v in SHAPE.items() if k != "vocab_size"})


def test_layout_from_vocab():
    layout = TokenLayout.from_vocab(VOCAB, CONFIG)
    assert layout.num_codes == 3
    assert [layout.code_to_id(code) for code in range(3)] == [8, 9, 10]
    assert layout.id_to_code(10) == 2
    assert layout.begin_ids == (4, 6)
    assert layout.end_ids == (12, 13)
    audio = [token for token, token_id in VOCAB.items() if layout.is_audio(token_id)]
    assert audio[0] == "<|audio|>"
    assert "<|begin_of_quad|>" not in audio
    assert TokenLayout.from_dict(layout.to_dict()) == layout
    with pytest.raises(ConfigError, match="code 3"):
        layout.code_to_id(3)
    with pytest.raises(ConfigError, match="not a speech code"):
        layout.id_to_code(11)


@pytest.mark.parametrize("token", [token for token in VOCAB if token != "a"])
def test_layout_needs_every_special_token(token):
    vocab = {name: token_id for name, token_id in VOCAB.items() if name != token}
    if token in ("<|audio_1|>", "<|audio_2|>"):
        assert TokenLayout.from_vocab(vocab, CONFIG).num_codes < 3
    else:
        with pytest.raises(ConfigError, match=token.replace("|", r"\|")):
            TokenLayout.from_vocab(vocab, CONFIG)


@pytest.mark.parametrize(
    ("vocab", "config", "words"),
    [
        ({}, {"mask_token": 10}, "mask_token is 10"),
        ({}, {"audio_token_id_start": 8}, "audio_token_id_start is 8"),
        ({}, {"vocab_size": 13}, "outside the 13 embedding rows"),
        ({}, {"vocab_size": None}, "vocab_size"),
        ({code_token(2): 20}, {}, "contiguous"),
        ({"<|im_end|>": 12}, {}, "must lie below"),
        ({"<|end_of_audio_new|>": 5}, {}, "at or above"),
        ({"<|end_of_audio_new|>": 9}, {}, "among the speech codes"),
        ({"<|im_end|>": 2}, {}, "share an id"),
    ],
)
def test_layout_refuses(vocab, config, words):
    with pytest.raises(ConfigError, match=words):
        TokenLayout.from_vocab({**VOCAB, **vocab}, {**CONFIG, **config})


def test_presets_stand_for_the_published_steps():
    script, paper = GenerationConfig.preset("script"), GenerationConfig.preset("paper")
    assert (script.block_length, script.steps_per_block()) == (26, 2)
    assert (script.cfg_scale, script.top_k, script.top_p) == (0.1, 10, 0.95)
    assert (paper.block_length, paper.steps_per_block()) == (32, 10)
    assert GenerationConfig.preset("paper", max_gen_len=7).max_gen_len == 7
    with pytest.raises(ConfigError, match="known: script, paper"):
        GenerationConfig.preset("fast")


@pytest.mark.parametrize(
    "change",
    [
        {"max_gen_len": -1},
        {"max_gen_len": 2.5},
        {"diffusion_steps": 0},
        {"block_length": 0},
        {"ar_temperature": -0.1},
        {"diffusion_temperature": float("inf")},
        {"cfg_scale": -1},
        {"cfg_scale": "0.1"},
        {"remasking": "entropy"},
        {"top_k": -1},
        {"top_k": 1.5},
        {"top_p": 1.1},
        {"min_text_tokens_after_audio": True},
        {"temperature": 1.0},
    ],
)
def test_generation_config_refuses(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        GenerationConfig.from_dict(change)


def test_lengths_that_do_not_divide_are_refused_only_on_use():
    uneven = GenerationConfig(diffusion_gen_length=30, block_length=8)
    with pytest.raises(ConfigError, match="divisible by block_length 8"):
        uneven.steps_per_block()
    with pytest.raises(ConfigError, match="divisible by the 3 blocks"):
        GenerationConfig(
            diffusion_steps=4, diffusion_gen_length=24, block_length=8
        ).steps_per_block()


@pytest.mark.parametrize(
    ("options", "samples", "filters"),
    [
        ({}, False, False),
        ({"top_k": 0, "top_p": 1.0}, False, False),
        ({"top_p": 0.0}, False, False),
        ({"ar_temperature": 0.5}, True, False),
        ({"top_k": 1}, True, True),
        ({"top_p": 0.95}, True, True),
    ],
)
def test_when_text_is_drawn(options, samples, filters):
    config = GenerationConfig(**options)
    assert (config.samples_text, config.filters_text) == (samples, filters)


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GenerationConfig().top_k = 3  # type: ignore[misc]
