"""Merge a PEFT LoRA adapter into a checkpoint's weights while they are read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ttt_export.weights import Float32Array, SafetensorsTensors, WeightSource, tensor
from ttt_ref.bounded import read_json
from ttt_ref.errors import CheckpointError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
# Options of adapter_config.json that would change the mathematics; LoRA with them is not merged.
_UNSUPPORTED = ("use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "lora_bias")


@dataclass(frozen=True)
class _LowRank:
    down: Float32Array  # A [r, K]
    up: Float32Array  # B [N, r]


class MergedWeights:
    """A weight source that adds `scale * B A` to the rows of adapted matrices.

    Tensors that the adapter saved whole (`modules_to_save`) replace the checkpoint's.
    """

    def __init__(
        self,
        base: WeightSource,
        low_rank: dict[str, _LowRank],
        replaced: dict[str, Float32Array],
        scale: float,
    ) -> None:
        self._base = base
        self._low_rank = low_rank
        self._replaced = replaced
        self._scale = np.float32(scale)

    def names(self) -> list[str]:
        """Return all tensor names."""
        return self._base.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return self._base.shape(name)

    def rows(self, name: str, start: int, stop: int) -> Float32Array:
        """Return rows start..stop-1 of a tensor as float32, adapter included."""
        if name in self._replaced:
            return self._replaced[name][start:stop]
        rows = self._base.rows(name, start, stop)
        delta = self._low_rank.get(name)
        if delta is not None:
            rows = rows + self._scale * (delta.up[start:stop] @ delta.down)
        return rows


def _read_adapter_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        config = read_json(path, error=CheckpointError, advice="save the adapter again")
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} has no {CONFIG_FILE}; --adapter wants a PEFT folder"
        ) from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise CheckpointError(f"{path}: peft_type is {kind!r}; only LORA adapters can be merged")
    for option in _UNSUPPORTED:
        if config.get(option):
            raise CheckpointError(
                f"{path}: {option} is set, which is not supported; merge with peft"
            )
    if config.get("bias", "none") != "none":
        raise CheckpointError(f"{path}: bias is {config['bias']!r}; merge this adapter with peft")
    return config


def merge_adapter(base: WeightSource, folder: Path) -> MergedWeights:
    """Return the checkpoint's weights with a LoRA adapter merged in.

    Args:
        base: the checkpoint.
        folder: holds adapter_config.json and adapter_model.safetensors.

    Raises:
        CheckpointError: not a LoRA adapter, an unsupported kind of it, or one that does not fit.
    """
    config = _read_adapter_config(folder)
    try:
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{folder / CONFIG_FILE} lacks r or lora_alpha") from None
    if rank < 1:
        raise CheckpointError(f"{folder / CONFIG_FILE}: r is {rank}; expected at least 1")
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    if not (folder / WEIGHTS_FILE).is_file():
        raise CheckpointError(f"{folder} has no {WEIGHTS_FILE}; save the adapter as safetensors")
    stored = SafetensorsTensors([folder / WEIGHTS_FILE])
    halves: dict[str, dict[str, Float32Array]] = {}
    replaced: dict[str, Float32Array] = {}
    known = set(base.names())
    for name in stored.names():
        stem = name.removeprefix(_PREFIX)
        for half in ("lora_A", "lora_B"):
            module, found, rest = stem.partition(f".{half}.")
            if found and rest == "weight":
                halves.setdefault(f"{module}.weight", {})[half] = tensor(stored, name)
                break
        else:
            target = stem.replace(".modules_to_save.", ".")
            if target not in known:
                raise CheckpointError(f"{folder}: adapter tensor {name} has no place in the model")
            replaced[target] = tensor(stored, name)
    low_rank = {}
    for target, pair in halves.items():
        if target not in known or len(pair) != 2:
            raise CheckpointError(f"{folder}: adapter for {target} has no place in the model")
        delta = _LowRank(pair["lora_A"], pair["lora_B"])
        want = base.shape(target)
        if (delta.up.shape[0], delta.down.shape[1]) != want or delta.up.shape[1] != rank:
            raise CheckpointError(
                f"{folder}: adapter for {target} is {delta.up.shape} x {delta.down.shape}, "
                f"the weight is {want}; it belongs to another model"
            )
        low_rank[target] = delta
    for target, value in replaced.items():
        if value.shape != base.shape(target):
            raise CheckpointError(
                f"{folder}: adapter tensor {target} is {value.shape}, "
                f"the model's is {base.shape(target)}"
            )
    if not low_rank and not replaced:
        raise CheckpointError(f"{folder / WEIGHTS_FILE} holds no LoRA weights")
    return MergedWeights(base, low_rank, replaced, scale)
