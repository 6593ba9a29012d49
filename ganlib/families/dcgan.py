"""DCGAN: the unconditional convolutional GAN (Radford et al. 2016, arXiv 1511.06434).

At 64 pixels with width 64 these are the published networks; at another resolution the number of doublings changes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ganlib.card import Condition, DatasetSpec, Latent
from ganlib.data.store import Batch
from ganlib.families.base import NetworkSettings, Objective, TwoPlayers
from ganlib.networks.convolution import down, pyramid, up
from ganlib.networks.initialisation import dcgan_normal
from ganlib.networks.precision import in_float32
from ganlib.problems import Refused


class Settings(NetworkSettings):
    """`network` of a dcgan model."""

    z: int = Field(100, ge=1, description="length of the latent")
    width: int = Field(64, ge=1, description="generator: channels before the last layer")
    discriminator_width: int = Field(64, ge=1, description="discriminator: channels of the first layer")


class Generator(nn.Module):
    """Latent `(N, z)` to images `(N, channels, size, size)` in [-1, 1]."""

    def __init__(self, settings: Settings, size: int, channels: int) -> None:
        super().__init__()
        base, doublings = pyramid(size)
        widths = [settings.width * 2**i for i in reversed(range(doublings))]
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(settings.z, widths[0], base, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
            *(up(wide, narrow) for wide, narrow in pairwise(widths)),
            nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1, bias=False),
            nn.Tanh(),
        )
        self.apply(dcgan_normal)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z[:, :, None, None])


class Discriminator(nn.Module):
    """Images to one logit each, `(N,)`; no batch norm in the first layer."""

    def __init__(self, settings: Settings, size: int, channels: int) -> None:
        super().__init__()
        base, doublings = pyramid(size)
        widths = [settings.discriminator_width * 2**i for i in range(doublings)]
        self.layers = nn.Sequential(
            down(channels, widths[0], norm=False),
            *(down(narrow, wide) for narrow, wide in pairwise(widths)),
        )
        self.logit = nn.Conv2d(widths[-1], 1, base, bias=False)
        self.apply(dcgan_normal)

    def forward(self, images: Tensor) -> Tensor:
        return in_float32(self.logit, self.layers(images)).flatten()


class DCGAN(TwoPlayers):
    """Deep convolutional GAN without a condition."""

    preset = {
        "loss": "non-saturating",
        "generator": {"name": "adam", "lr": 2e-4, "betas": [0.5, 0.999]},
        "discriminator": {"name": "adam", "lr": 2e-4, "betas": [0.5, 0.999]},
        "batch": 128,
    }
    tiny = {"network": {"z": 8, "width": 4, "discriminator_width": 4}, "batch": 8}
    Network = Settings
    condition_kind = "none"

    def __init__(self, spec: DatasetSpec, text_dimension: int, network: Settings, objective: Objective) -> None:
        try:
            self.networks = {
                "generator": Generator(network, spec.size, spec.channels),
                "discriminator": Discriminator(network, spec.size, spec.channels),
            }
        except ValueError as error:
            raise Refused(f"ingest.size: {error}") from error
        self.objective = objective
        self.latent = Latent(size=network.z, distribution="normal")
        self.condition = Condition(kind="none")

    def sample(self, z: Tensor, condition: Tensor | None) -> Tensor:
        return self.networks["generator"](z)

    def discriminator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Real images are true, fakes are false."""
        discriminator: Any = self.networks["discriminator"]
        with torch.no_grad():
            fake = self.sample(torch.randn(len(batch), self.latent.size, device=batch.images.device), None)
        p_real, p_fake = discriminator(batch.images), discriminator(fake)
        total = self.objective.loss.discriminator(p_real, p_fake)
        if self.objective.penalties and self.objective.penalty_every == 1:
            total = total + self.objective.penalty(lambda images: discriminator(images), batch.images, fake)
        return total, self.objective.probabilities(p_real=p_real, p_fake=p_fake)

    def penalty_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        discriminator: Any = self.networks["discriminator"]
        with torch.no_grad():
            fake = self.sample(torch.randn(len(batch), self.latent.size, device=batch.images.device), None)
        return self.objective.penalty(discriminator, batch.images, fake), {}

    def generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Fakes pass for real."""
        discriminator: Any = self.networks["discriminator"]
        fake = self.sample(torch.randn(len(batch), self.latent.size, device=batch.images.device), None)
        p_fake = discriminator(fake)
        p_real = p_fake.detach()
        if self.objective.loss.needs_real:
            with torch.no_grad():
                p_real = discriminator(batch.images)
        return self.objective.loss.generator(p_real, p_fake), {}
