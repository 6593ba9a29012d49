"""How weights begin, by their statistics."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import nn

from ganlib.networks.initialisation import glorot, orthogonal


def test_glorot_is_uniform_with_the_variance_of_the_paper() -> None:
    torch.manual_seed(0)
    layer = glorot(nn.Linear(300, 100), gain=2.0)
    bound = 2.0 * sqrt(6 / 400)
    assert layer.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert layer.weight.var().item() == pytest.approx(bound**2 / 3, rel=0.03)
    assert not layer.bias.any()
    norm = nn.BatchNorm2d(3)
    assert glorot(norm) is norm
    assert torch.equal(norm.weight, torch.ones(3))


def test_orthogonal_matrices() -> None:
    network = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Linear(5, 20), nn.Embedding(3, 7), nn.BatchNorm2d(2))
    network.apply(orthogonal)
    for layer, rows in ((network[0], True), (network[1], False), (network[2], True)):
        matrix = layer.weight.detach().flatten(1)  # type: ignore[operator]
        gram = matrix @ matrix.T if rows else matrix.T @ matrix
        torch.testing.assert_close(gram, torch.eye(len(gram)), rtol=0, atol=1e-5)
    assert not network[0].bias.any()  # type: ignore[operator]
    assert torch.equal(network[3].weight, torch.ones(2))  # type: ignore[arg-type]
