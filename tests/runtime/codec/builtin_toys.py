"""A small, untrained built-in codec: torch side and exported side."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from ttt_export.codec import builtin
from ttt_ref.codec.builtin.checkpoint import save_decoder, save_tokenizer
from ttt_ref.codec.builtin.config import DecoderConfig, TokenizerConfig
from ttt_ref.codec.builtin.decoder import SpeechDecoder
from ttt_ref.codec.builtin.tokenizer import SpeechTokenizer
from ttt_runtime.bundle.folder import BundleWriter
from ttt_runtime.bundle.graph_spec import GraphSpec
from ttt_runtime.bundle.manifest import CodecEntry

TOKENIZER = TokenizerConfig(width=32, expansion=2, right_context=(2, 1))
DECODER = DecoderConfig(width=32, expansion=2, code_blocks=1, frame_blocks=2, filter_blocks=1)


@dataclass(frozen=True)
class ToyCodec:
    """The torch modules, and a folder with the exported graphs and their entry."""

    tokenizer: SpeechTokenizer
    decoder: SpeechDecoder
    folder: Path
    entry: CodecEntry
    precision: str


_GRAPHS: dict[str, onnx.ModelProto] = {}
_TO_ONNX = builtin.to_onnx


def _export_once(module: Any, example: Any, spec: GraphSpec, dynamic: Any) -> onnx.ModelProto:
    """torch.onnx takes seconds, and the weights here are always the same."""
    if spec.name not in _GRAPHS:
        _GRAPHS[spec.name] = _TO_ONNX(module, example, spec, dynamic)
    return copy.deepcopy(_GRAPHS[spec.name])


def make_codec(where: Path, precision: str) -> ToyCodec:
    """Make, save and export an untrained codec that uses many codes and makes some sound."""
    torch.manual_seed(0)
    tokenizer, decoder = SpeechTokenizer(TOKENIZER).eval(), SpeechDecoder(DECODER).eval()
    with torch.no_grad():  # what training would leave in the running statistics
        norm = tokenizer.encoder.digit_norm
        norm.momentum = 1.0
        tokenizer.train()
        tokenizer.encoder(tokenizer.mel(torch.from_numpy(sound(32_000))[None]))
        tokenizer.eval()
        decoder.network.to_pitch.weight.mul_(5.0)
    save_tokenizer(where / "checkpoint", tokenizer)
    save_decoder(where / "checkpoint", decoder)
    writer = BundleWriter(where / "bundle")
    with mock.patch.object(builtin, "to_onnx", _export_once):
        entry = builtin.export_builtin(where / "checkpoint", writer, "cpu", precision)
    return ToyCodec(tokenizer, decoder, writer.folder, entry, precision)


def sound(samples: int, seed: int = 1) -> NDArray[np.float32]:
    """Noise with a changing level."""
    rng = np.random.default_rng(seed)
    level = 0.1 * (1.1 + np.sin(np.arange(samples) / 2_000))
    return (level * rng.standard_normal(samples)).astype(np.float32)
