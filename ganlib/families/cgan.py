"""The matching-aware conditional GAN: classes instead of captions.

The condition of Mirza & Osindero 2014 (arXiv 1411.1784) in the convolutional networks of Radford et al. 2016
(arXiv 1511.06434), with the three pairs of Reed et al. 2016 (arXiv 1605.05396, algorithm 1): without the pair
(real image, wrong class) a discriminator can ignore the class, and then the generator may too.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ganlib.card import Condition, DatasetSpec, Latent
from ganlib.families.base import ConditionKind, MatchingAware, NetworkSettings, class_count
from ganlib.families.objective import Objective
from ganlib.networks.convolution import down, pyramid, up
from ganlib.networks.initialisation import dcgan_normal, dense_normal
from ganlib.networks.precision import in_float32
from ganlib.problems import Refused


class Settings(NetworkSettings):
    """`network` of a cgan model."""

    z: int = Field(100, ge=1, description="length of the latent")
    width: int = Field(64, ge=1, description="generator: channels before the last layer")
    discriminator_width: int = Field(64, ge=1, description="discriminator: channels of the first layer")
    discriminator_norm: bool = Field(True, description="batch norm in the discriminator; without, add r1")
    condition: int = Field(200, ge=1, description="width of the class's own dense layer; twice z or more steers best")


class Generator(nn.Module):
    """Latent `(N, z)` and classes `(N,)` int64 to images `(N, channels, size, size)` in [-1, 1]."""

    def __init__(self, settings: Settings, classes: int, size: int, channels: int) -> None:
        super().__init__()
        self.classes = classes
        base, doublings = pyramid(size)
        widths = [settings.width * 2**i for i in reversed(range(doublings))]
        self.project = nn.Sequential(nn.Linear(classes, settings.condition), nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(settings.z + settings.condition, widths[0], base, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
            *(up(wide, narrow) for wide, narrow in pairwise(widths)),
            nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1),
            nn.Tanh(),
        )
        self.apply(dcgan_normal)
        dense_normal(self.project[0], 0.1)  # a class as loud as the latent teaches to ignore the latent

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        condition = self.project(one_hot(labels, self.classes).float())
        return self.layers(torch.cat([z, condition], dim=1)[:, :, None, None])


class Discriminator(nn.Module):
    """Images and classes to one logit each; the class joins before the second-to-last convolution."""

    def __init__(self, settings: Settings, classes: int, size: int, channels: int) -> None:
        super().__init__()
        self.classes = classes
        base, doublings = pyramid(size)
        width, norm = settings.discriminator_width, settings.discriminator_norm
        widths = [width * 2**i for i in range(doublings)]
        self.features = nn.Sequential(
            down(channels, width, norm=False),
            *(down(narrow, wide, norm) for narrow, wide in pairwise(widths)),
        )
        self.project = nn.Sequential(nn.Linear(classes, settings.condition), nn.LeakyReLU(0.2))
        self.join = nn.Sequential(
            nn.Conv2d(widths[-1] + settings.condition, widths[-1], 1, bias=not norm),
            nn.BatchNorm2d(widths[-1]) if norm else nn.Identity(),
            nn.LeakyReLU(0.2),
        )
        self.logit = nn.Conv2d(widths[-1], 1, base)
        if norm:  # without it, weights of 0.02 would let the signal die out; torch's own initialisation keeps it
            self.apply(dcgan_normal)
        dense_normal(self.project[0], 1.0)  # one-hot input: the layer is a table of N(0, 1) vectors

    def match(self, features: Tensor, labels: Tensor) -> Tensor:
        """Logits `(N,)` for features of images `(N, c, h, w)` beside classes `(N,)`."""
        condition = self.project(one_hot(labels, self.classes).float())
        tiled = condition[:, :, None, None].expand(-1, -1, *features.shape[2:])
        return in_float32(self.logit, self.join(torch.cat([features, tiled], dim=1))).flatten()

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.match(self.features(images), labels)


class ConditionalGAN(MatchingAware):
    """Class-conditional GAN with a matching-aware discriminator."""

    preset = {
        "loss": "non-saturating",
        "generator": {"name": "adam", "lr": 2e-4, "betas": [0.5, 0.999]},
        "discriminator": {"name": "adam", "lr": 2e-4, "betas": [0.5, 0.999]},
        "batch": 64,
        "mismatch": "class",
    }
    tiny = {"network": {"z": 8, "width": 4, "discriminator_width": 4, "condition": 16}, "batch": 8}
    Network = Settings

    @classmethod
    def condition_kind(cls, network: Any) -> ConditionKind:
        return "class"

    def __init__(self, spec: DatasetSpec, text_dimension: int, network: Settings, objective: Objective) -> None:
        classes = class_count(spec, "cgan", "take dcgan")
        try:
            self.networks = {
                "generator": Generator(network, classes, spec.size, spec.channels),
                "discriminator": Discriminator(network, classes, spec.size, spec.channels),
            }
        except ValueError as error:
            raise Refused(f"ingest.size: {error}") from error
        self.settings = network
        self.objective = objective
        self.latent = Latent(size=network.z, distribution="normal")
        self.condition = Condition(kind="class", size=classes)
