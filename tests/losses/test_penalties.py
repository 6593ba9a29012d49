"""Penalties against gradients known in closed form."""

from __future__ import annotations

import pytest
import torch

from ganlib.losses.penalties import PENALTIES


def test_r1_and_r2_of_a_quadratic_critic() -> None:
    """D(x) = |x|^2 / 2 has the gradient x, so the penalty is half the mean of |x|^2."""
    real, fake = torch.randn(4, 3, 5, 5), torch.randn(4, 3, 5, 5)
    critic = lambda images: images.square().sum(dim=(1, 2, 3)) / 2  # noqa: E731
    for name, images in (("r1", real), ("r2", fake)):
        expected = images.square().sum(dim=(1, 2, 3)).mean().item() / 2
        assert PENALTIES[name](critic, real, fake).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", PENALTIES)
def test_a_penalty_trains_the_critic_against_finite_differences(name: str) -> None:
    real, fake = torch.randn(2, 1, 3, 3, dtype=torch.float64), torch.randn(2, 1, 3, 3, dtype=torch.float64)
    weight = torch.randn(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)

    def penalty(w: torch.Tensor) -> torch.Tensor:
        return PENALTIES[name](lambda images: torch.tanh(images * w).sum(dim=(1, 2, 3)), real, fake)

    assert torch.autograd.gradcheck(penalty, (weight,))
