"""Optimisers and learning-rate schedules by their names in params.yaml."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from ganlib.config import Optimiser, Train


def optimiser(config: Optimiser, parameters: Iterable[nn.Parameter], lazy: float = 1.0) -> torch.optim.Optimizer:
    """The optimiser that a section of params.yaml describes.

    Args:
        config: name, learning rate and betas.
        parameters: what it steps.
        lazy: c = k / (k + 1) where a penalty's step follows every k-th one: the rate becomes c lr and the betas beta^c,
            so that k + 1 steps move as far as k (Karras et al. 2020, arXiv 1912.04958, appendix B).
    """
    lr = config.lr * lazy
    if config.name == "adam":
        return torch.optim.Adam(parameters, lr=lr, betas=(config.betas[0] ** lazy, config.betas[1] ** lazy), fused=True)
    if config.name == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=lr)
    return torch.optim.SGD(parameters, lr=lr)


def rate(config: Train, step: int) -> float:
    """Factor of the learning rates in training step `step` (from 0): 1, then linearly towards 0 after `decay_from`."""
    start = config.decay_from * config.steps
    return 1.0 if step < start else (config.steps - step) / max(config.steps - start, 1.0)
