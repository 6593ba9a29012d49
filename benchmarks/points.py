"""Mixtures of Gaussians in the plane as a data set, and a GAN for them.

A point is an image of one row, two pixels and one channel, `(N, 1, 1, 2)`, so that all that works on images works.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import pi

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from ganlib.card import Condition, DatasetSpec, Latent
from ganlib.data.store import Batch
from ganlib.families.base import NetworkSettings, TwoPlayers
from ganlib.families.objective import Objective


@dataclass(frozen=True)
class Mixture:
    """Gaussians of equal weight and width.

    Attributes:
        name: for people.
        centres: `(K, 2)` float64.
        deviation: standard deviation along each axis.
        half_side: of the square around 0 that pixels in [-1, 1] stand for.
    """

    name: str
    centres: np.ndarray
    deviation: float
    half_side: float

    def draw(self, count: int, random: np.random.Generator) -> np.ndarray:
        """Points `(count, 2)` float64."""
        chosen = self.centres[random.integers(len(self.centres), size=count)]
        return chosen + self.deviation * random.standard_normal((count, 2))

    def as_images(self, points: np.ndarray) -> Tensor:
        """Points `(N, 2)` as images `(N, 1, 1, 2)` float32."""
        return torch.from_numpy((points / self.half_side).astype(np.float32))[:, None, None]

    def as_points(self, images: Tensor) -> np.ndarray:
        """Images `(N, 1, 1, 2)` as points `(N, 2)` float64."""
        return images.flatten(1).double().cpu().numpy() * self.half_side


_ANGLES = np.arange(8) * pi / 4
_LINE = np.arange(-4.0, 5.0, 2.0)
RING = Mixture("ring", np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1), deviation=0.01, half_side=1.25)
GRID = Mixture("grid", np.stack(np.meshgrid(_LINE, _LINE), axis=-1).reshape(-1, 2), deviation=0.05, half_side=5.0)


class Reals:
    """Batches of fresh points; batch k is a pure function of (seed, k)."""

    device = torch.device("cpu")

    def __init__(self, mixture: Mixture, batch: int, seed: int) -> None:
        self.mixture, self.batch, self.seed = mixture, batch, seed

    def __getitem__(self, number: int) -> Batch:
        """Batch `number`, from 0 on without end."""
        random = np.random.Generator(np.random.Philox(key=[self.seed, number]))
        return Batch(self.mixture.as_images(self.mixture.draw(self.batch, random)))


class Settings(NetworkSettings):
    """`network` of a PointGAN."""

    z: int = Field(2, ge=1, description="length of the latent")
    width: int = Field(128, ge=1, description="units of a hidden layer")
    layers: int = Field(5, ge=1, description="generator: hidden layers; more of them pass faster from mode to mode")
    discriminator_layers: int = Field(2, ge=1, description="discriminator: hidden layers")


class Generator(nn.Module):
    """Latent `(N, z)` to points `(N, 1, 1, 2)`, not bounded."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.layers = _dense(settings.z, settings.width, settings.layers, 2)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)[:, None, None]


class Discriminator(nn.Module):
    """Points `(N, 1, 1, 2)` to one logit each, `(N,)`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.layers = _dense(2, settings.width, settings.discriminator_layers, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.flatten(1)).flatten()


class PointGAN(TwoPlayers):
    """Dense networks without normalisation; its data needs no `DatasetSpec`."""

    preset = {}
    tiny = {}
    Network = Settings

    def __init__(self, spec: DatasetSpec | None, text_dimension: int, network: Settings, objective: Objective) -> None:
        self.networks = {"generator": Generator(network), "discriminator": Discriminator(network)}
        self.settings = network
        self.objective = objective
        self.latent = Latent(size=network.z, distribution="normal")
        self.condition = Condition(kind="none")


def _dense(inputs: int, width: int, hidden: int, outputs: int) -> nn.Sequential:
    """Dense layers with leaky rectifiers between, begun as in He et al. 2015 (arXiv 1502.01852), eq. 15."""
    layers: list[nn.Module] = []
    for before, after in pairwise([inputs, *[width] * hidden]):
        dense = nn.Linear(before, after)
        nn.init.kaiming_normal_(dense.weight, a=0.2)
        layers += [dense, nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(width, outputs))
