"""The codec's weights on disk: a folder with config.json and one safetensors file per network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ttt_ref.bounded import check_plain, read_json, shown
from ttt_ref.codec.builtin.config import DecoderConfig, TokenizerConfig
from ttt_ref.codec.builtin.decoder import SpeechDecoder
from ttt_ref.codec.builtin.tokenizer import SpeechTokenizer
from ttt_ref.errors import CheckpointError
from ttt_ref.outputs import staged, write_whole

CODEC_TYPE = "builtin"


def _write(folder: Path, part: str, config: dict[str, Any], module: nn.Module) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().float().contiguous() for k, v in module.state_dict().items()}
    with staged(folder / f"{part}.safetensors") as temporary:
        save_file(weights, temporary)
    file = folder / "config.json"
    known: dict[str, Any] = {"ttt_codec": {"type": CODEC_TYPE}}
    if file.exists():
        known = read_json(file, error=CheckpointError)
    known["ttt_codec"][part] = config
    write_whole(file, json.dumps(known, indent=2) + "\n")


def _read(folder: Path, part: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(f"no config.json in {folder}; give a codec checkpoint folder")
    try:
        codec = read_json(file, error=CheckpointError)["ttt_codec"]
        kind = codec["type"]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is not a codec configuration ({error!r})") from error
    if kind != CODEC_TYPE or part not in codec:
        raise CheckpointError(
            f"{file} holds a {shown(kind)} codec with {shown(sorted(codec))}; expected "
            f"{CODEC_TYPE!r} with a {part}"
        )
    weights = folder / f"{part}.safetensors"
    if not weights.is_file():
        raise CheckpointError(f"no {weights.name} in {folder}; the checkpoint is incomplete")
    check_plain(weights, CheckpointError)
    try:
        return codec[part], load_file(weights)
    except SafetensorError as error:
        raise CheckpointError(f"{weights} is damaged ({error}); copy it again") from error


def _fill(module: nn.Module, weights: dict[str, torch.Tensor], folder: Path) -> None:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        line = " ".join(str(error).split())
        raise CheckpointError(f"the weights in {folder} do not fit their config: {line}") from error
    module.eval().requires_grad_(False)


def save_tokenizer(folder: Path, tokenizer: SpeechTokenizer) -> None:
    """Write the tokenizer part of the codec folder (a decoder part that is there stays)."""
    _write(folder, "tokenizer", tokenizer.config.to_dict(), tokenizer)


def save_decoder(folder: Path, decoder: SpeechDecoder) -> None:
    """Write the decoder part of the codec folder (a tokenizer part that is there stays)."""
    _write(folder, "decoder", decoder.config.to_dict(), decoder)


def load_tokenizer(folder: Path) -> SpeechTokenizer:
    """Read the tokenizer, ready for inference.

    Raises:
        CheckpointError: missing, damaged, or of another kind.
    """
    config, weights = _read(folder, "tokenizer")
    tokenizer = SpeechTokenizer(TokenizerConfig.from_dict(config))
    _fill(tokenizer, weights, folder)
    return tokenizer


def load_decoder(folder: Path) -> SpeechDecoder:
    """Read the decoder, ready for inference.

    Raises:
        CheckpointError: missing, damaged, or of another kind.
    """
    config, weights = _read(folder, "decoder")
    decoder = SpeechDecoder(DecoderConfig.from_dict(config))
    _fill(decoder, weights, folder)
    return decoder
