"""Shared by the tests of the reference: a loaded checkpoint and a small random model."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from ttt_ref import checkpoint
from ttt_ref.checkpoint import Loaded
from ttt_ref.random_weights import LIKES, make_tokenizer, random_checkpoint


@lru_cache(maxsize=8)
def _load(folder: Path) -> Loaded:
    return checkpoint.load(folder)


@pytest.fixture
def load_once() -> Callable[[Path], Loaded]:
    """Return a loader that reads each checkpoint once in a session; always in evaluation mode."""

    def load(folder: Path) -> Loaded:
        loaded = _load(folder)
        loaded.model.eval()
        return loaded

    return load


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random checkpoint of the tiny shape; read it, do not write to it."""
    folder = tmp_path_factory.mktemp("random") / "tiny"
    random_checkpoint(folder, "tiny", seed=3)
    return folder


@pytest.fixture
def tiny(tiny_folder: Path) -> Loaded:
    """Return a tiny model with weights large enough for uneven distributions."""
    loaded = checkpoint.load(tiny_folder)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "norm" not in name:
                parameter.mul_(5)
    return loaded


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Tokenizer:
    """Return the tokenizer of the tiny shape, without a model."""
    return make_tokenizer(256, LIKES["tiny"].specials())
