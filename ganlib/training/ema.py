"""The exponential moving average of a network's weights, with its half-life in images (Karras et al. 2020,
arXiv 1912.04958, appendix B)."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Average:
    """A second copy of a network that follows it slowly; batch-norm statistics are averaged with the weights."""

    def __init__(self, network: nn.Module) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(
        self, network: nn.Module, batch: int, images_seen: int, half_life: float, ramp_up: float | None = None
    ) -> None:
        """Move towards `network`.

        Args:
            network: the trained one.
            batch: images since the last update.
            images_seen: images in all.
            half_life: in images; after so many the average has forgotten half of what it was. 0 takes the weights.
            ramp_up: the half-life is at most this share of the images seen.
        """
        if ramp_up is not None:
            half_life = min(half_life, images_seen * ramp_up)
        keep = 0.5 ** (batch / half_life) if half_life > 0 else 0.0
        current = network.state_dict()
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                value.lerp_(current[name], 1 - keep)
            else:
                value.copy_(current[name])
