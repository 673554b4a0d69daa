"""A tiny world for training tests: byte tokenizer with 27 codes, and a file of conversations."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from tokenizers import AddedToken, pre_tokenizers

from ttt_ref.config import (
    AUDIO_MARKER,
    BEGIN_OF_AUDIO,
    BEGIN_OF_QUAD,
    END_OF_AUDIO,
    END_OF_AUDIO_NEW,
    END_OF_AUDIO_SPAN_LAST,
    IM_END,
    IM_START,
    MASK_TOKEN,
    PAD,
    code_token,
)
from ttt_ref.tokenizer_files import build_tokenizer
from ttt_ref.train.config import TrainConfig, from_mapping
from ttt_ref.train.data import read_examples
from ttt_ref.train.start import Start, make_start
from ttt_ref.train.store import Example

CODES = 27


def speech(codes: list[int]) -> str:
    return "".join(code_token(code) for code in codes)


def record(rng: random.Random) -> dict[str, Any]:
    """A question of a few letters whose answer repeats it, in text and in speech."""
    letters = rng.choices(range(8), k=rng.randint(2, 9))
    text = "".join("abcdefgh"[i] for i in letters)
    codes = [code for i in letters for code in (3 * i, 3 * i + 1, 3 * i + 2)]
    answer = f"{text}{BEGIN_OF_QUAD}{speech(codes[:8])}"
    if len(codes) > 8:
        answer += f"{END_OF_AUDIO_NEW}.{BEGIN_OF_QUAD}{speech(codes[8:])}"
    return {
        "messages": [
            {"role": "user", "content": f"{BEGIN_OF_AUDIO}{speech(codes)}{END_OF_AUDIO}"},
            {"role": "assistant", "content": answer + END_OF_AUDIO_SPAN_LAST},
        ]
    }


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with tokenizer.json, train.jsonl and dev.jsonl."""
    folder = tmp_path_factory.mktemp("world")
    vocab = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    names = [PAD, IM_START, IM_END, BEGIN_OF_AUDIO, END_OF_AUDIO, BEGIN_OF_QUAD, AUDIO_MARKER]
    names += [code_token(i) for i in range(CODES)]
    names += [MASK_TOKEN, END_OF_AUDIO_NEW, END_OF_AUDIO_SPAN_LAST]
    added = [
        (len(vocab) + i, AddedToken(name, special=True, normalized=False))
        for i, name in enumerate(names)
    ]
    build_tokenizer(vocab, [], added).save(str(folder / "tokenizer.json"))
    rng = random.Random(1)
    for name, count in (("train", 60), ("dev", 12)):
        lines = [json.dumps(record(rng)) for _ in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def settings(world: Path, output: Path) -> dict[str, Any]:
    """A small deterministic run as plain values; tests change what they are about."""
    return {
        "output_dir": str(output),
        "precision": "fp32",
        "threads": 1,
        "model": {
            "tokenizer": str(world),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "audio_init": "fsq",
            "fsq_levels": [3, 3, 3],
        },
        "data": [{"path": str(world / "train.jsonl")}],
        "eval_data": [{"path": str(world / "dev.jsonl")}],
        "batch": {
            "tokens_per_batch": 512,
            "max_length": 256,
            "pool_examples": 20,
            "cache_dir": str(world / "cache"),
        },
        "optimizer": {"learning_rate": 1e-2},
        "schedule": {"max_steps": 6, "warmup_steps": 2},
        "evaluation": {"every_steps": 0},
        "log": {"every_steps": 1, "tensorboard": False, "progress": False},
    }


def configure(world: Path, output: Path, **changes: dict[str, Any]) -> TrainConfig:
    """Build the configuration with single values of sections replaced."""
    values = settings(world, output)
    for section, replaced in changes.items():
        values[section] = {**values.get(section, {}), **replaced}
    return from_mapping(TrainConfig, values)


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> None:
    """Accelerate keeps its state in singletons; every test starts without any."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    torch.manual_seed(0)


@pytest.fixture
def start(world: Path) -> Start:
    return make_start(configure(world, world).model, seed=1)


@pytest.fixture
def examples(world: Path, start: Start) -> list[Example]:
    return list(read_examples(world / "train.jsonl", start))
