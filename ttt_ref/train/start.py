"""The model a run starts from: an existing checkpoint, or fresh weights of a given shape."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from ttt_ref import checkpoint
from ttt_ref.bounded import read_json
from ttt_ref.config import ModelConfig, TokenLayout
from ttt_ref.errors import ConfigError
from ttt_ref.model import TttModel
from ttt_ref.tokenizer_files import load_tokenizer
from ttt_ref.train.config import ModelSection


@dataclass(frozen=True)
class Start:
    """Model, tokenizer, layout, the folder of the tokenizer files, and further config.json keys.

    `notes` are lines on how the checkpoint was read.
    """

    model: TttModel
    tokenizer: Tokenizer
    layout: TokenLayout
    tokenizer_dir: Path
    extra_config: dict[str, Any]
    notes: tuple[str, ...] = ()


def make_start(section: ModelSection, seed: int) -> Start:
    """Read or initialise what `[model]` asks for. Errors: CheckpointError, ConfigError, OSError."""
    extra: dict[str, Any] = {}
    if section.config_extra:
        extra = read_json(section.config_extra, error=ConfigError)
        if not isinstance(extra, dict):
            raise ConfigError(f"{section.config_extra} holds no table of config.json keys")
    if section.checkpoint:
        folder = Path(section.checkpoint)
        loaded = checkpoint.load(folder)
        own = {k: v for k, v in checkpoint.read_config(folder).items() if k.startswith("ttt_")}
        notes = tuple(checkpoint.read_notes(folder))
        return Start(loaded.model, loaded.tokenizer, loaded.layout, folder, {**own, **extra}, notes)
    folder = Path(section.tokenizer)
    tokenizer = load_tokenizer(folder)
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    rows = math.ceil((max(vocab.values()) + 1) / section.vocab_multiple) * section.vocab_multiple
    layout = TokenLayout.from_vocab(vocab, {"vocab_size": rows})
    config = ModelConfig(
        hidden_size=section.hidden_size,
        intermediate_size=section.intermediate_size,
        num_hidden_layers=section.num_hidden_layers,
        num_attention_heads=section.num_attention_heads,
        num_key_value_heads=section.num_key_value_heads,
        vocab_size=rows,
        rope_theta=section.rope_theta,
        rms_norm_eps=section.rms_norm_eps,
        tie_word_embeddings=section.tie_word_embeddings,
        max_position_embeddings=section.max_position_embeddings,
        initializer_range=section.initializer_range,
    )
    _check_memory(config)
    model = TttModel(config)
    generator = torch.Generator().manual_seed(seed)
    model.init_weights(generator)
    if section.audio_init == "fsq":
        init_codes_by_digits(model, layout, section.fsq_levels, generator)
    return Start(model, tokenizer, layout, folder, extra)


def _check_memory(config: ModelConfig) -> None:
    """Raise ConfigError for fresh weights that this machine's memory cannot hold in float32."""
    hidden, wide = config.hidden_size, config.intermediate_size
    kv = config.num_key_value_heads * config.head_dim
    layer = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * wide
    tables = 1 if config.tie_word_embeddings else 2
    needed = 4 * (config.num_hidden_layers * layer + tables * config.vocab_size * hidden)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ConfigError(
            f"[model] asks for {needed / 1e9:.0f} GB of weights, this machine has "
            f"{there / 1e9:.0f} GB of memory; choose a smaller shape"
        )


@torch.no_grad()
def init_codes_by_digits(
    model: TttModel, layout: TokenLayout, levels: tuple[int, ...], generator: torch.Generator
) -> None:
    """Start the rows of the speech codes as sums of one random vector per FSQ digit and level.

    A code of a finite-scalar-quantised codec is a tuple of digits; codes that share digits sound
    alike. With this start they also lie close together in the table (input and output), so that
    what is learnt about one code serves its neighbours from the first step on. The rows keep the
    usual variance, and remain free parameters. Digit 0 is the fastest:
    code = sum_i digit_i * prod(levels[:i]). Errors: ConfigError if the levels do not fit the codes.
    """
    if math.prod(levels) != layout.num_codes:
        raise ConfigError(
            f"model.fsq_levels {list(levels)} make {math.prod(levels)} codes; the tokenizer has "
            f"{layout.num_codes}"
        )
    spread = model.config.initializer_range / math.sqrt(len(levels))
    codes = torch.arange(layout.num_codes)
    tables = [model.model.embed_tokens.weight]
    if not model.config.tie_word_embeddings:
        tables.append(model.lm_head.weight)
    for table in tables:
        rows = torch.zeros(layout.num_codes, table.shape[1])
        stride = 1
        for level in levels:
            vectors = torch.randn(level, table.shape[1], generator=generator) * spread
            rows += vectors[codes // stride % level]
            stride *= level
        table[layout.code_offset : layout.code_offset + layout.num_codes] = rows
