"""Optimisers and learning-rate schedules by their names in params.yaml."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from ganlib.config import Optimiser, Train


def optimiser(config: Optimiser, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser that a section of params.yaml describes.

    Args:
        config: name, learning rate, betas and momentum.
        parameters: what it steps.
    """
    if config.name == "adam":
        return torch.optim.Adam(parameters, lr=config.lr, betas=config.betas, fused=True)
    if config.name == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=config.lr, momentum=config.momentum)
    return torch.optim.SGD(parameters, lr=config.lr, momentum=config.momentum)


def set_numbers(
    of: torch.optim.Optimizer, section: str, numbers: Mapping[str, float], factor: float, lazy: float
) -> None:
    """Give an optimiser the learning rate and the betas of a step.

    Args:
        of: the optimiser.
        section: of params.yaml that describes it.
        numbers: the step's numbers by key (`config.Train.numbers_at`).
        factor: of the learning rate (`rate`).
        lazy: c = k / (k + 1) where a penalty's step follows every k-th one: the rate becomes c lr and the betas beta^c,
            so that k + 1 steps move as far as k (Karras et al. 2020, arXiv 1912.04958, appendix B).
    """
    for group in of.param_groups:
        group["lr"] = numbers[f"{section}.lr"] * factor * lazy
        if "betas" in group:
            group["betas"] = tuple(numbers[f"{section}.betas.{i}"] ** lazy for i in (0, 1))


def rate(config: Train, step: int) -> float:
    """Factor of the learning rates in training step `step` (from 0): 1, then linearly towards 0 after `decay_from`."""
    start = config.decay_from * config.steps
    return 1.0 if step < start else (config.steps - step) / max(config.steps - start, 1.0)


@torch.no_grad()
def clip_weights(parameters: Iterable[nn.Parameter], bound: float) -> None:
    """Keep weights in [-bound, bound]: Arjovsky et al. 2017 (arXiv 1701.07875), algorithm 1."""
    for parameter in parameters:
        parameter.clamp_(-bound, bound)
