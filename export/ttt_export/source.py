"""Open a checkpoint from a folder or the hub, and check it before anything is written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from ttt_export.weights import CheckpointWeights, WeightSource, row_chunks
from ttt_ref.checkpoint import is_random, read_config, read_layout, read_model_config
from ttt_ref.config import ModelConfig, TokenLayout
from ttt_ref.errors import CheckpointError
from ttt_ref.hub import find_folder
from ttt_ref.tokenizer_files import load_tokenizer
from ttt_ref.weight_names import HEAD, OTHER_HEAD_NOTE, TABLE, prefix_note

HUB_PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.jinja", "codec/*", "calibration.jsonl")
CODEC_PATTERNS = ("*.json", "*.yaml", "*.safetensors", "flow.pt", "hift.pt")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint ready to be exported; its weights are read tensor by tensor."""

    path: Path
    raw_config: Mapping[str, Any]
    model: ModelConfig
    layout: TokenLayout
    tokenizer: Tokenizer
    weights: WeightSource
    stored_bytes: int
    is_random: bool = False  # drawn by ttt-random: gates have nothing to hold
    notes: tuple[str, ...] = ()  # what a user should know of it


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of every tensor that the graphs are made of."""
    hidden, wide = config.hidden_size, config.intermediate_size
    query = config.num_attention_heads * config.head_dim
    kv = config.num_key_value_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocab_size, hidden),
        "model.norm.weight": (hidden,),
    }
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    for index in range(config.num_hidden_layers):
        layer = f"model.layers.{index}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (hidden,),
            f"{layer}.post_attention_layernorm.weight": (hidden,),
            f"{layer}.self_attn.q_proj.weight": (query, hidden),
            f"{layer}.self_attn.q_proj.bias": (query,),
            f"{layer}.self_attn.k_proj.weight": (kv, hidden),
            f"{layer}.self_attn.k_proj.bias": (kv,),
            f"{layer}.self_attn.v_proj.weight": (kv, hidden),
            f"{layer}.self_attn.v_proj.bias": (kv,),
            f"{layer}.self_attn.o_proj.weight": (hidden, query),
            f"{layer}.mlp.gate_proj.weight": (wide, hidden),
            f"{layer}.mlp.up_proj.weight": (wide, hidden),
            f"{layer}.mlp.down_proj.weight": (hidden, wide),
        }
    return shapes


def check_shapes(folder: Path, config: ModelConfig, weights: WeightSource) -> None:
    """Raise CheckpointError unless all tensors are there in the shapes of config.json."""
    have = set(weights.names())
    expected = expected_shapes(config)
    missing = [name for name in expected if name not in have]
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} weights are missing, the first is {missing[0]}; "
            "download the checkpoint again"
        )
    for name, shape in expected.items():
        if weights.shape(name) != shape:
            raise CheckpointError(
                f"{folder}: weight {name} has shape {list(weights.shape(name))}, "
                f"config.json asks for {list(shape)}"
            )


def open_checkpoint(path: str | os.PathLike[str], adapter: str | Path | None = None) -> Checkpoint:
    """Open and check a checkpoint folder.

    Args:
        path: folder in the released format.
        adapter: folder of a PEFT LoRA adapter to merge in, or None.

    Raises:
        CheckpointError: whatever is missing, damaged or does not fit together.
    """
    folder = Path(path)
    raw = read_config(folder)
    config = read_model_config(folder)
    tokenizer = load_tokenizer(folder)
    layout = read_layout(folder, tokenizer)
    stored = CheckpointWeights(folder)
    check_shapes(folder, config, stored)
    weights: WeightSource = stored
    if adapter is not None:
        from ttt_export.adapters import merge_adapter

        weights = merge_adapter(stored, Path(adapter))
    size = stored.stored_bytes()
    notes = [prefix_note(stored.prefix)] if stored.prefix else []
    if config.tie_word_embeddings and has_other_head(stored):
        notes.append(OTHER_HEAD_NOTE)
    return Checkpoint(
        folder, raw, config, layout, tokenizer, weights, size, is_random(folder), tuple(notes)
    )


def has_other_head(weights: WeightSource) -> bool:
    """Return whether an output layer is stored that differs from the embedding."""
    if HEAD not in weights.names():
        return False
    if weights.shape(HEAD) != weights.shape(TABLE):
        return True
    pairs = zip(
        row_chunks(weights, HEAD, 0, weights.shape(HEAD)[0]),
        row_chunks(weights, TABLE, 0, weights.shape(TABLE)[0]),
        strict=True,
    )
    return any(not np.array_equal(head, table) for head, table in pairs)


def find_checkpoint(
    model: str,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    patterns: Sequence[str] = HUB_PATTERNS,
) -> Path:
    """Return the folder of a checkpoint; see `ttt_ref.hub.find_folder`."""
    return find_folder(
        model, revision=revision, local_files_only=local_files_only, patterns=patterns
    )
