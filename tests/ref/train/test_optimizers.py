"""Which weight is moved by which optimizer, and how far."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ttt_ref.errors import ConfigError
from ttt_ref.train.config import OptimizerSection
from ttt_ref.train.optimizers import make_optimizers


class Toy(nn.Module):
    """An embedding, a layer with matrix and bias, a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 4)])
        self.norm = nn.LayerNorm(4)


def test_muon_takes_the_matrices_inside_the_layers_and_nothing_else() -> None:
    toy = Toy()
    adamw, muon = make_optimizers(toy, OptimizerSection(name="muon"))
    assert [id(p) for g in muon.param_groups for p in g["params"]] == [id(toy.layers[0].weight)]
    rest = {id(p) for g in adamw.param_groups for p in g["params"]}
    assert rest == {id(p) for p in toy.parameters()} - {id(toy.layers[0].weight)}


def test_norms_and_biases_do_not_decay() -> None:
    toy = Toy()
    (adamw,) = make_optimizers(toy, OptimizerSection(weight_decay=0.3))
    decayed, plain = adamw.param_groups
    assert {id(p) for p in decayed["params"]} == {id(toy.embed.weight), id(toy.layers[0].weight)}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)


def test_a_muon_step_is_as_long_as_an_adamw_step() -> None:
    """Root mean square 0.2 of the learning rate at a first step, whatever the gradient's size."""
    torch.manual_seed(0)
    for scale in (1e-4, 1e4):
        toy = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(64, 64, bias=False)])})
        weight = toy["layers"][0].weight  # type: ignore[index]
        section = OptimizerSection(name="muon", learning_rate=1e-2, weight_decay=0.0)
        _, muon = make_optimizers(toy, section)
        before = weight.detach().clone()
        weight.grad = scale * torch.randn(64, 64)
        muon.step()
        change = (weight.detach() - before).square().mean().sqrt()
        assert 0.1 * 1e-2 < float(change) < 0.3 * 1e-2


def test_muon_without_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match="no matrix inside a layer"):
        make_optimizers(nn.Linear(3, 3), OptimizerSection(name="muon"))
