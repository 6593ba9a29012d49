"""Penalties on a critic: pure functions of (critic, real, fake), chosen and weighted by name in params.yaml.

A critic takes images `(N, C, H, W)` to logits with one row an image; what it is conditioned on is bound into it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Critic = Callable[[Tensor], Tensor]
Penalty = Callable[[Critic, Tensor, Tensor], Tensor]


def r1(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    """Half the squared gradient norm at real images: Mescheder et al. 2018 (arXiv 1801.04406), eq. 9, gamma = 1."""
    return _squared_gradient_norm(critic, real).mean() / 2


def r2(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    """Half the squared gradient norm at fake images: Mescheder et al. 2018 (arXiv 1801.04406), eq. 10, gamma = 1."""
    return _squared_gradient_norm(critic, fake).mean() / 2


def _squared_gradient_norm(critic: Critic, images: Tensor) -> Tensor:
    images = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(images).sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3))


PENALTIES: dict[str, Penalty] = {"r1": r1, "r2": r2}
