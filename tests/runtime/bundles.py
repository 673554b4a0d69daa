"""Small bundles for tests: a real configuration, and files that only claim to be graphs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.runtime.toy import toy_layout
from ttt_ref.config import GenerationConfig, ModelConfig
from ttt_runtime.bundle.folder import BundleWriter
from ttt_runtime.bundle.graph_spec import decoder_spec, speech_head_spec, text_head_spec
from ttt_runtime.bundle.manifest import CONFIG_NAME, BundleConfig, EmbeddingsEntry, GraphEntry

LAYOUT = toy_layout()
MODEL = ModelConfig(
    hidden_size=8,
    intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    vocab_size=LAYOUT.vocab_size,
)


def toy_config(**changes: Any) -> BundleConfig:
    """A configuration that fits `toy_files`."""
    specs = (
        decoder_spec(MODEL),
        text_head_spec(MODEL, LAYOUT.audio_start),
        speech_head_spec(MODEL, LAYOUT.audio_start),
    )
    values: dict[str, Any] = {
        "name": "toy",
        "model": MODEL,
        "layout": LAYOUT,
        "precision": "fp32",
        "graphs": {s.name: GraphEntry(s, f"graphs/{s.name}.onnx") for s in specs},
        "embeddings": EmbeddingsEntry("table.bin", "float32", MODEL.vocab_size, MODEL.hidden_size),
        "presets": {"default": GenerationConfig(max_gen_len=7)},
        "prompts": {"system": {"answer": "answer"}, "transcript_first": True},
    }
    return BundleConfig(**{**values, **changes})


def write_toy(out: Path, **changes: Any) -> Path:
    """Publish a toy bundle at `out`."""
    with BundleWriter(out) as writer:
        for name in ("decoder", "text_head", "speech_head"):
            writer.add_bytes(f"graphs/{name}.onnx", b"no graph: " + name.encode())
        writer.add_bytes("table.bin", bytes(4 * MODEL.vocab_size * MODEL.hidden_size))
        writer.publish(toy_config(**changes))
    return out


def edit_config(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the configuration of a bundle on disk."""
    path = bundle / CONFIG_NAME
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
