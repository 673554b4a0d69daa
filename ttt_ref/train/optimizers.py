"""The optimizers of a run: AdamW for all weights, or Muon for the matrices inside the layers.

Muon (Jordan et al. 2024; `torch.optim.Muon`) makes the update of a matrix orthogonal. Embeddings,
head, norms and biases stay with AdamW. Its step is scaled to the root mean square of an AdamW
step (Liu et al. 2025, arXiv 2502.16982, section 2.2), so that one learning rate serves both.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

from ttt_ref.errors import ConfigError
from ttt_ref.train.config import OptimizerSection


def make_optimizers(module: nn.Module, section: OptimizerSection) -> tuple[Optimizer, ...]:
    """One optimizer a kind of parameter.

    Errors: ConfigError if `muon` is asked for and the model has no matrix inside a layer.
    """
    inner, decayed, plain = [], [], []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2:
            plain.append(parameter)
        elif section.name == "muon" and parameter.ndim == 2 and ".layers." in f".{name}":
            inner.append(parameter)
        else:
            decayed.append(parameter)
    adamw = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": section.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ],
        lr=section.learning_rate,
        betas=(section.beta1, section.beta2),
        eps=section.eps,
        fused=section.fused,
    )
    if section.name == "adamw":
        return (adamw,)
    if not inner:
        raise ConfigError("optimizer.name is 'muon', but the model has no matrix inside a layer")
    muon = torch.optim.Muon(
        inner,
        lr=section.learning_rate,
        weight_decay=section.weight_decay,
        momentum=section.momentum,
        adjust_lr_fn="match_rms_adamw",
    )
    return adamw, muon
