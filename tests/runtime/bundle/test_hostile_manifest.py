"""Every number of a manifest has a range that follows from the model; nothing is begun before."""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.bundles import LAYOUT, MODEL, edit_config, toy_config, write_toy
from ttt_ref.errors import BundleError
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.bundle.gqa_spec import gqa_decoder_spec
from ttt_runtime.bundle.manifest import CONFIG_NAME, GraphEntry

NUMBERS = (10**12, 2**31, 2**70, 10**5000, -1, 1.5, "7", True, None, [], float("nan"))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "toy")


def refused(bundle: Path) -> str:
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(BundleError) as error:
        Bundle.open(bundle)
    took = time.process_time() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert took < 2
    assert peak < 50 << 20
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    return str(error.value)


def put(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(config: Any) -> None:
        *keys, last = path.split("/")
        for key in keys:
            config = config[int(key) if isinstance(config, list) else key]
        config[int(last) if isinstance(config, list) else last] = value

    return change


@pytest.mark.parametrize(
    "path",
    [
        "model/hidden_size",
        "model/intermediate_size",
        "model/num_hidden_layers",
        "model/num_attention_heads",
        "model/num_key_value_heads",
        "model/vocab_size",
        "model/max_position_embeddings",
        "layout/vocab_size",
        "layout/audio_start",
        "layout/num_codes",
        "layout/mask_id",
        "presets/default/diffusion_steps",
        "presets/default/diffusion_gen_length",
        "presets/default/block_length",
        "presets/default/max_gen_len",
        "presets/default/min_text_tokens_after_audio",
        "embeddings/rows",
        "embeddings/columns",
        "files/table.bin/bytes",
        "graphs/decoder/spec/inputs/0/shape/2",
        "graphs/text_head/spec/outputs/0/shape/1",
        "graphs/speech_head/spec/outputs/0/shape/1",
    ],
)
def test_numbers_out_of_range(bundle: Path, path: str) -> None:
    original = (bundle / CONFIG_NAME).read_text()
    for value in NUMBERS:
        (bundle / CONFIG_NAME).write_text(original)
        edit_config(bundle, put(path, 0))
        text = (bundle / CONFIG_NAME).read_text()
        if isinstance(value, int) and value == 10**5000:
            # Python writes no such number: it is put in as text.
            edit_config(bundle, put(path, "HERE"))
            text = (bundle / CONFIG_NAME).read_text().replace('"HERE"', "1" + "0" * 5000)
            (bundle / CONFIG_NAME).write_text(text)
        else:
            edit_config(bundle, put(path, value))
        refused(bundle)


@pytest.mark.parametrize("value", ["x", 2**80, -0.5, 1e300, 1e-40, None, True])
@pytest.mark.parametrize("key", ["ar_temperature", "diffusion_temperature"])
def test_temperatures_out_of_range(bundle: Path, key: str, value: object) -> None:
    edit_config(bundle, put(f"presets/default/{key}", value))
    assert key in refused(bundle)


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        ("graphs/decoder/spec/inputs/0/shape", [], "embeds"),
        ("graphs/decoder/spec/inputs/0/shape", ["N"], "embeds"),
        ("graphs/decoder/spec/inputs/3/shape", [1], "mask"),
        ("graphs/decoder/spec/inputs/4/dtype", "bool", "graph decoder"),
        ("graphs/decoder/spec/inputs", [], "no input"),
        ("graphs/decoder/spec/outputs", [], "outputs"),
        ("graphs/decoder/spec/attributes", {}, "cache_layout"),
        ("graphs/decoder/spec/attributes/cache_layout", "columns", "cache_layout"),
        ("graphs/decoder/spec/attributes/cache_layout", "heads", "past_k.0"),
        ("graphs/decoder/spec/attributes/cache_layout", "x" * 10_000, "200"),
        ("graphs/text_head/spec/outputs/0/shape", ["N"], "logits"),
        ("graphs/text_head/spec/outputs/0/shape", [], "logits"),
        ("graphs/text_head/spec/outputs/0/shape", ["N", "R"], "logits"),
        ("graphs/speech_head/spec/outputs/0/shape", ["N", 1], "logits"),
        ("graphs/speech_head/spec/name", "other", "calls itself"),
        ("graphs/speech_head/spec/inputs/0/shape", [1] * 9, "0 to 8"),
        ("layout/vocab_size", LAYOUT.vocab_size + 1, "vocab_size"),
        ("presets/default/block_length", MODEL.max_position_embeddings + 1, "positions"),
        ("name", "a\x1b[2J", "control characters"),
        ("name", "\ud800", "surrogates"),
        ("name", "n" * 1000, "1 to 200"),
        ("files/table.bin/sha256", "0", "64"),
        ("precision", "", "precision"),
        ("presets", {str(i): {} for i in range(100)}, "presets"),
    ],
)
def test_parts_that_contradict_the_model(bundle: Path, path: str, value: object, word: str) -> None:
    edit_config(bundle, put(path, value))
    assert word in refused(bundle)


@pytest.mark.parametrize("rows", ["missing", "7", "NaN", -1, 0, 1.5, 2**40, True, None])
def test_rotary_rows(tmp_path: Path, rows: object) -> None:
    graphs = dict(toy_config().graphs)
    graphs["decoder"] = GraphEntry(gqa_decoder_spec(MODEL, 64), "graphs/decoder.onnx")
    bundle = write_toy(tmp_path / "toy", graphs=graphs)
    Bundle.open(bundle)

    def change(config: Any) -> None:
        attributes = config["graphs"]["decoder"]["spec"]["attributes"]
        attributes["rotary_rows"] = rows
        if rows == "missing":
            del attributes["rotary_rows"]

    edit_config(bundle, change)
    assert "rotary_rows" in refused(bundle)


@pytest.mark.parametrize("name", [CONFIG_NAME, "table.bin", "graphs/decoder.onnx"])
@pytest.mark.parametrize("kind", ["fifo", "loop", "zero", "mem"])
def test_files_that_are_none(bundle: Path, name: str, kind: str) -> None:
    path = bundle / name
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    else:
        target = {"loop": path.name, "zero": "/dev/zero", "mem": "/proc/self/mem"}[kind]
        path.symlink_to(target)
    assert path.name in refused(bundle)


def test_wide_and_deep_manifests_take_little_memory(bundle: Path) -> None:
    for text in ("[" + "{}," * 1_000_000 + "1]", '{"a":' * 1_000_000, " " * (5 << 20)):
        (bundle / CONFIG_NAME).write_text(text)
        refused(bundle)
