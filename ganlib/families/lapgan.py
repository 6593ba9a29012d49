"""LAPGAN: a Laplacian pyramid of GANs, each level trained apart, coarse to fine (Denton et al. 2015, arXiv 1506.05751).

Level 0 is the coarsest (the paper counts the other way), with multilayer perceptrons for images of 8 pixels. Each
further level doubles the side. Its generator sees a blurred image l, which is u(d(I)) of a real image I in training and
u of the image so far in sampling, and makes the residual h that l lacks; its discriminator sees the sum l + h. The
paper's levels for CIFAR-10 have 8, 14 and 28 pixels; here they have 8, 16 and 32, or 7, 14 and 28 for data of 28.
Classes enter as in the authors' code.

The latent is one vector: that of level 0, then for each further level a plane of noise, row by row; all of it uniform.

A batch of the authors, 128, is of 64 real and 64 fake images, and their discriminator's loss the mean over all of them,
half of the loss here: their rate of 0.02 is 0.01 here. Their momentum rises from 0.5 to 0.8 by 0.0008 an epoch, and
their rate is divided by 1.00004 each epoch; here both stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import one_hot, relu

from ganlib.card import Condition, DatasetSpec, Latent
from ganlib.data.store import Batch
from ganlib.families.base import (
    Chapter,
    ConditionKind,
    Family,
    NetworkSettings,
    Phase,
    PhaseLoss,
    TwoPlayers,
    class_count,
)
from ganlib.families.objective import Objective
from ganlib.networks.convolution import pyramid
from ganlib.networks.precision import in_float32
from ganlib.networks.resampling import downsample, upsample
from ganlib.problems import Refused


class Settings(NetworkSettings):
    """`network` of a lapgan model."""

    z: int = Field(100, ge=1, description="length of the coarsest level's own latent")
    units: int = Field(1200, ge=1, description="generator of the coarsest level: units of both hidden layers")
    discriminator_units: int = Field(600, ge=1, description="discriminator of the coarsest level: the same")
    width: int = Field(64, ge=1, description="generators of the other levels: channels of both hidden layers")
    discriminator_width: int = Field(64, ge=1, description="discriminators of the other levels: the same")
    classes: bool = Field(True, description="whether a class is asked for")


class CoarseGenerator(nn.Module):
    """Latent `(N, z)` and classes `(N,)` int64, or no classes, to images `(N, channels, size, size)` without bounds."""

    def __init__(self, settings: Settings, classes: int, size: int, channels: int) -> None:
        super().__init__()
        self.classes = classes
        self.layers = nn.Sequential(
            nn.Linear(settings.z + classes, settings.units),
            nn.ReLU(),
            nn.Linear(settings.units, settings.units),
            nn.ReLU(),
            nn.Linear(settings.units, channels * size * size),
            nn.Unflatten(1, (channels, size, size)),
        )

    def forward(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return self.layers(beside(z, labels, self.classes))


class CoarseDiscriminator(nn.Module):
    """Images of the coarsest level and classes, or no classes, to one logit each, `(N,)`."""

    def __init__(self, settings: Settings, classes: int, size: int, channels: int) -> None:
        super().__init__()
        self.classes = classes
        units = settings.discriminator_units
        self.layers = nn.Sequential(
            nn.Linear(channels * size * size + classes, units),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(units, units),
            nn.ReLU(),
            nn.Dropout(),
        )
        self.logit = nn.Linear(units, 1)

    def forward(self, images: Tensor, labels: Tensor | None) -> Tensor:
        return in_float32(self.logit, self.layers(beside(images.flatten(1), labels, self.classes))).flatten()


def beside(vectors: Tensor, labels: Tensor | None, classes: int) -> Tensor:
    """Vectors `(N, d)` and, where there are any, classes as further values."""
    return vectors if labels is None else torch.cat([vectors, one_hot(labels, classes).to(vectors.dtype)], dim=1)


class ClassPlane(nn.Module):
    """Classes `(N,)` int64 to a map each, `(N, 1, size, size)`, by a linear layer and ReLU."""

    def __init__(self, classes: int, size: int) -> None:
        super().__init__()
        self.classes, self.size = classes, size
        self.linear = nn.Linear(classes, size * size)

    def forward(self, labels: Tensor) -> Tensor:
        return relu(self.linear(one_hot(labels, self.classes).float())).unflatten(1, (1, self.size, self.size))


class FineGenerator(nn.Module):
    """Noise `(N, 1, size, size)`, blurred images l and classes, or no classes, to residuals h of the shape of l."""

    def __init__(self, settings: Settings, classes: int, size: int, channels: int) -> None:
        super().__init__()
        width = settings.width
        if classes:
            self.plane = ClassPlane(classes, size)
        self.layers = nn.Sequential(
            nn.Conv2d(1 + bool(classes) + channels, width, 7, padding=3),
            nn.ReLU(),
            nn.Conv2d(width, width, 7, padding=3),
            nn.ReLU(),
            nn.Conv2d(width, channels, 5, padding=2),
        )

    def forward(self, noise: Tensor, blurred: Tensor, labels: Tensor | None) -> Tensor:
        planes = [noise] if labels is None else [noise, self.plane(labels)]
        return self.layers(torch.cat([*planes, blurred], dim=1))


class FineDiscriminator(nn.Module):
    """Images l + h of a level and classes, or no classes, to one logit each, `(N,)`."""

    def __init__(self, settings: Settings, classes: int, size: int, channels: int) -> None:
        super().__init__()
        width = settings.discriminator_width
        padding = 0 if size > 8 else 2  # two levels of 4 and 8 pixels are not the paper's: unpadded, nothing is left
        if classes:
            self.plane = ClassPlane(classes, size)
        self.layers = nn.Sequential(
            nn.Conv2d(channels + bool(classes), width, 5, padding=padding),
            nn.ReLU(),
            nn.Conv2d(width, width, 5, 2, padding=padding),
            nn.Flatten(),
            nn.ReLU(),
            nn.Dropout(),
        )
        left = (size + 2 * padding - 4 + 2 * padding - 5) // 2 + 1
        self.logit = nn.Linear(width * left * left, 1)

    def forward(self, images: Tensor, labels: Tensor | None) -> Tensor:
        planes = [images] if labels is None else [images, self.plane(labels)]
        return in_float32(self.logit, self.layers(torch.cat(planes, dim=1))).flatten()


class Level(TwoPlayers):
    """One level as a GAN of its own, which is trained on batches of images of its size.

    Attributes:
        index: 0 for the coarsest.
        size: side of its images in pixels.
        below: the next coarser level; None for the coarsest.
        depth: length of the latents of all levels up to this one; `latent` is this one's own.
    """

    def __init__(
        self,
        index: int,
        size: int,
        own: int,
        below: Level | None,
        networks: dict[str, nn.Module],
        objective: Objective,
        condition: Condition,
    ) -> None:
        self.index, self.size, self.below = index, size, below
        self.depth: int = own if below is None else below.depth + own
        self.networks = networks  # of all levels: the family's, which hold averages while it is sampled from
        self.latent = Latent(size=own, distribution="uniform")
        self.objective = objective
        self.condition = condition

    def its(self, part: str) -> str:
        """The name of this level's `generator` or `discriminator` among the networks."""
        return f"level{self.index}_{part}"

    def player(self, part: str) -> nn.Module:
        return self.networks[self.its(part)]

    def sample(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """Images `(N, C, size, size)` by all levels up to this one, from the latents of these `(N, depth)`."""
        if self.below is None:
            return self.made(z, None, condition)
        coarse = self.below.sample(z[:, : self.below.depth], condition)
        return self.made(z[:, self.below.depth :], upsample(coarse, "replicate"), condition)

    def made(self, z: Tensor, blurred: Tensor | None, condition: Tensor | None) -> Tensor:
        """The level's images from its own latents `(N, latent.size)` and, above the coarsest, from l."""
        generator = self.player("generator")
        if blurred is None:
            return generator(z, condition)
        return blurred + generator(z.unflatten(1, (1, self.size, self.size)), blurred, condition)

    def making(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        """From the level's own latents to fakes for the items of a batch: their real images with another residual."""
        asked, blurred = self.asked(batch), None
        if self.below is not None:
            blurred = upsample(downsample(batch.images, "replicate"), "replicate")
        return lambda z: self.made(z, blurred, asked)

    def judge(self, images: Tensor, condition: Tensor | None) -> Tensor:
        return self.player("discriminator")(images, condition)

    def phases(self) -> tuple[Phase, ...]:
        """Those of two players, under this level's names and with batches of its size."""
        return tuple(
            replace(
                phase,
                name=self.its(phase.name),
                trains=tuple(self.its(part) for part in phase.trains),
                loss=partial(self._at_its_size, phase.loss),
            )
            for phase in super().phases()
        )

    def _at_its_size(self, loss: PhaseLoss, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        images = batch.images
        while images.shape[2] > self.size:
            images = downsample(images, "replicate")
        return loss(replace(batch, images=images))


class LAPGAN(Family):
    """A GAN for each level of a Laplacian pyramid."""

    preset = {
        "loss": "non-saturating",
        "generator": {"name": "sgd", "lr": 0.02, "momentum": 0.5},
        "discriminator": {"name": "sgd", "lr": 0.01, "momentum": 0.5},
        "batch": 64,
        "generator_batches": 2,
    }
    tiny = {
        "network": {"z": 8, "units": 16, "discriminator_units": 16, "width": 4, "discriminator_width": 4},
        "batch": 8,
    }
    Network = Settings

    @classmethod
    def condition_kind(cls, network: Any) -> ConditionKind:
        return "class" if network.classes else "none"

    def __init__(self, spec: DatasetSpec, text_dimension: int, network: Settings, objective: Objective) -> None:
        classes = class_count(spec, "lapgan", "set network.classes: false") if network.classes else 0
        self.settings = network
        self.objective = objective
        self.condition = Condition(kind="class", size=classes) if classes else Condition(kind="none")
        self.networks = {}
        self.levels: list[Level] = []
        for index, size in enumerate(level_sizes(spec.size)):
            coarsest, of = index == 0, (network, classes, size, spec.channels)
            own, below = (network.z, None) if coarsest else (size * size, self.levels[-1])
            level = Level(index, size, own, below, self.networks, objective, self.condition)
            self.networks[level.its("generator")] = CoarseGenerator(*of) if coarsest else FineGenerator(*of)
            self.networks[level.its("discriminator")] = CoarseDiscriminator(*of) if coarsest else FineDiscriminator(*of)
            self.levels.append(level)
        self.latent = Latent(size=self.levels[-1].depth, distribution="uniform")
        self.finest = self.levels[-1]

    def averaged(self) -> tuple[str, ...]:
        return tuple(level.its("generator") for level in self.levels)

    def curriculum(self) -> tuple[Chapter, ...]:
        """A chapter for each level, coarse to fine, equally long (the paper trains them side by side)."""
        return tuple(Chapter(f"{level.size} pixels", 1 / len(self.levels), level.phases()) for level in self.levels)

    def phases(self) -> tuple[Phase, ...]:
        """The optimiser steps of all levels, coarse to fine."""
        return tuple(phase for level in self.levels for phase in level.phases())

    def enter(self, chapter: int, progress: float) -> None:
        """Sample by the levels up to this chapter's, of which alone there is anything to see yet."""
        self.finest = self.levels[chapter]

    def sample(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """Images coarse to fine; levels finer than the chapter that was entered add no residual."""
        images = self.finest.sample(z[:, : self.finest.depth], condition)
        for _ in range(self.finest.index + 1, len(self.levels)):
            images = upsample(images, "replicate")
        return images.clamp(-1, 1)


def level_sizes(size: int) -> list[int]:
    """Sides of a pyramid's images in pixels, coarse to fine: 4 to 8 pixels doubled at least once, 8 where it can be.

    Raises:
        Refused: for a side that is no such number doubled.
    """
    try:
        base, doublings = pyramid(size)
    except ValueError as error:
        raise Refused(f"ingest.size: {error}") from error
    first = 1 if base == 4 and doublings > 1 else 0  # 8, 16, 32 rather than 4, 8, 16, 32
    return [base * 2**i for i in range(first, doublings + 1)]
