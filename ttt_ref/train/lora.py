"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) through peft, and checkpointing.

The adapter that a run writes has peft's own form: `adapter_config.json` and
`adapter_model.safetensors`, whose names begin with `base_model.model.`; `ttt-export --adapter`
merges it, and so does peft.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ttt_ref.errors import ConfigError
from ttt_ref.model import TttModel
from ttt_ref.package import install_command
from ttt_ref.train.config import LoraSection

ADAPTER = "default"  # peft's name of the only adapter
PREFIX = "base_model.model."
DOWN, UP, BASE = f".lora_A.{ADAPTER}.weight", f".lora_B.{ADAPTER}.weight", ".base_layer."


def add_adapters(model: TttModel, section: LoraSection) -> None:
    """Freeze a model and give its matrices adapters, in place.

    Raises:
        ConfigError: peft is missing, or a name fits no matrix of the model.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ConfigError(f"lora.rank needs peft; {install_command('train')}") from None
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    for name in (*section.modules, *section.whole):
        if name not in names:
            raise ConfigError(f"lora: the model has no module {name!r}; known: {_known(model)}")
    config = LoraConfig(
        r=section.rank,
        lora_alpha=section.alpha,
        lora_dropout=section.dropout,
        target_modules=list(section.modules),
    )
    inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in section.whole:
            module.requires_grad_(True)


def _known(model: TttModel) -> str:
    kinds = (torch.nn.Linear, torch.nn.Embedding)
    found = [n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, kinds)]
    return ", ".join(dict.fromkeys(found))


def checkpoint_layers(model: TttModel) -> None:
    """Keep only each layer's input for the backward pass, in place; the rest is computed again."""
    for layer in model.model.layers:
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)


def merged(weights: Mapping[str, Tensor], section: LoraSection) -> dict[str, Tensor]:
    """Return the weights of the plain model, adapters merged in float32."""
    scale = section.alpha / section.rank
    plain: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name.endswith((DOWN, UP)):
            continue
        plain[name.replace(BASE, ".")] = value.float()
    for name, up in weights.items():
        if name.endswith(UP):
            stem = name.removesuffix(UP)
            target = f"{stem}.weight"
            plain[target] = plain[target] + scale * (up.float() @ weights[stem + DOWN].float())
    return plain


def save_adapter(
    weights: Mapping[str, Tensor], section: LoraSection, folder: Path, base: str
) -> None:
    """Write the adapter in peft's form.

    Args:
        weights: state of the model with its adapters, names without a wrapper's prefix.
        section: what was trained.
        folder: folder to make.
        base: name of the checkpoint that it belongs to.
    """
    from peft import LoraConfig

    folder.mkdir(parents=True, exist_ok=True)
    LoraConfig(
        r=section.rank,
        lora_alpha=section.alpha,
        lora_dropout=section.dropout,
        target_modules=list(section.modules),
        modules_to_save=list(section.whole) or None,
        base_model_name_or_path=base,
        inference_mode=True,
    ).save_pretrained(str(folder))
    kept: dict[str, Tensor] = {}
    for name, value in weights.items():
        whole = name.removesuffix(".weight").rpartition(".")[2] in section.whole
        if name.endswith((DOWN, UP)) or whole:
            stored = value.detach().to("cpu").float().contiguous()
            kept[PREFIX + name.replace(f".{ADAPTER}.weight", ".weight")] = stored
    save_file(kept, str(folder / "adapter_model.safetensors"), {"format": "pt"})
