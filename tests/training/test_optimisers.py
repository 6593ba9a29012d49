from __future__ import annotations

import pytest
import torch

from ganlib.config import Optimiser
from ganlib.training.optimisers import clip_weights, optimiser, set_numbers


def test_clipping_is_in_place_and_by_value() -> None:
    layer = torch.nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.005, -0.02], [0.01, 0.03]]))
        layer.bias.fill_(-1)
    weight, bias = layer.weight, layer.bias
    clip_weights(layer.parameters(), 0.01)
    assert layer.weight is weight
    assert torch.equal(weight, torch.tensor([[0.005, -0.01], [0.01, 0.01]]))
    assert torch.equal(bias, torch.full((2,), -0.01))
    assert weight.is_leaf and weight.requires_grad and weight.grad_fn is None


def test_optimisers_take_what_their_section_says() -> None:
    parameters = list(torch.nn.Linear(2, 2).parameters())
    sgd = optimiser(Optimiser(name="sgd", lr=0.02, momentum=0.5), parameters)
    assert isinstance(sgd, torch.optim.SGD) and sgd.defaults["momentum"] == 0.5
    rmsprop = optimiser(Optimiser(name="rmsprop", lr=5e-5), parameters)
    assert isinstance(rmsprop, torch.optim.RMSprop) and rmsprop.defaults["momentum"] == 0
    adam = optimiser(Optimiser(lr=1e-3, betas=(0.0, 0.9)), parameters)
    set_numbers(adam, "critic", {"critic.lr": 4e-3, "critic.betas.0": 0.25, "critic.betas.1": 0.81}, 0.5, 0.5)
    assert adam.param_groups[0]["lr"] == pytest.approx(1e-3)
    assert adam.param_groups[0]["betas"] == pytest.approx((0.5, 0.9))
