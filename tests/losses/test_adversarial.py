"""Adversarial losses: values worked out by hand, and gradients that pull the right way."""

from __future__ import annotations

import math

import pytest
import torch

from ganlib.losses.adversarial import LOSSES

LOG2 = math.log(2)
REAL, FAKE = torch.tensor([0.0, 2.0]), torch.tensor([0.0, -1.0])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


@pytest.mark.parametrize(
    ("name", "discriminator", "generator"),
    [
        ("minimax", (LOG2 + softplus(-2)) / 2 + (LOG2 + softplus(-1)) / 2, -(LOG2 + softplus(-1)) / 2),
        ("non-saturating", (LOG2 + softplus(-2)) / 2 + (LOG2 + softplus(-1)) / 2, (LOG2 + softplus(1)) / 2),
        ("least-squares", ((1 + 1) / 2 + (0 + 1) / 2) / 2, (1 + 4) / 2 / 2),
        ("hinge", (1 + 0) / 2 + (1 + 0) / 2, 0.5),
        ("relativistic", (LOG2 + softplus(-3)) / 2, (LOG2 + softplus(3)) / 2),
    ],
)
def test_values_by_hand(name: str, discriminator: float, generator: float) -> None:
    loss = LOSSES[name]
    assert loss.discriminator(REAL, FAKE).item() == pytest.approx(discriminator, rel=1e-6)
    assert loss.generator(REAL, FAKE).item() == pytest.approx(generator, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_pull_apart_and_together(name: str) -> None:
    real, fake = torch.tensor([0.3, -0.2], requires_grad=True), torch.tensor([0.1, 0.4], requires_grad=True)
    to_real, to_fake = torch.autograd.grad(LOSSES[name].discriminator(real, fake), (real, fake))
    assert (to_real < 0).all()  # the discriminator raises real logits
    assert (to_fake > 0).all()  # and lowers fake ones
    (to_fake,) = torch.autograd.grad(LOSSES[name].generator(real, fake), fake)
    assert (to_fake < 0).all()  # the generator raises them


@pytest.mark.parametrize("name", LOSSES)
def test_needs_real_says_whether_the_generator_reads_the_real_logits(name: str) -> None:
    moved = LOSSES[name].generator(REAL + 1, FAKE) != LOSSES[name].generator(REAL, FAKE)
    assert bool(moved) is LOSSES[name].needs_real
