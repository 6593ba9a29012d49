"""SNGAN: a residual discriminator with spectral normalisation (Miyato et al. 2018, arXiv 1802.05957).

With `classes` it is the projection model of Miyato & Koyama 2018 (arXiv 1802.05637): class-conditional batch norm in
the generator, and the inner product of the image's features with a vector of its class in the discriminator.
At 32 pixels these are the published CIFAR-10 networks (table 4). At another resolution the number of
blocks that double or halve changes. Learning rates fall linearly to 0 from the first step on, as in the authors'
CIFAR-10 runs of 50,000 generator steps; their ImageNet runs keep them up to the last 50,000 of 450,000.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor, nn

from ganlib.card import Condition, DatasetSpec, Latent
from ganlib.families.base import ConditionKind, NetworkSettings, TwoPlayers, class_count
from ganlib.families.objective import Objective
from ganlib.networks.residual import DownBlock, FirstDownBlock, ResidualGenerator, halvings
from ganlib.networks.spectral import ProjectionLogit, SpectralConv2d
from ganlib.problems import Refused


class Settings(NetworkSettings):
    """`network` of an sngan model."""

    z: int = Field(128, ge=1, description="length of the latent")
    width: int = Field(256, ge=1, description="generator: channels of every layer")
    discriminator_width: int = Field(128, ge=1, description="discriminator: channels of every layer")
    classes: bool = Field(False, description="conditional on classes, with a projection discriminator")


class Discriminator(nn.Module):
    """Images, and classes `(N,)` where there are any, to one logit each, `(N,)`: features are summed over the map."""

    def __init__(self, settings: Settings, classes: int, size: int, channels: int) -> None:
        super().__init__()
        width, halved = settings.discriminator_width, halvings(size)
        self.features = nn.Sequential(
            FirstDownBlock(channels, width, SpectralConv2d),
            *(DownBlock(width, width, halve=True, conv=SpectralConv2d) for _ in range(halved - 1)),
            *(DownBlock(width, width, halve=False, conv=SpectralConv2d) for _ in range(2)),
            nn.ReLU(),
        )
        self.logit = ProjectionLogit(width, classes, bias=False)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.logit(self.features(images).float().sum(dim=(2, 3)), labels)


class SNGAN(TwoPlayers):
    """Spectrally normalised GAN, with classes or without."""

    preset = {
        "loss": "hinge",
        "generator": {"name": "adam", "lr": 2e-4, "betas": [0.0, 0.9]},
        "discriminator": {"name": "adam", "lr": 2e-4, "betas": [0.0, 0.9]},
        "discriminator_steps": 5,
        "generator_batches": 2,
        "decay_from": 0.0,
        "batch": 64,
    }
    tiny = {"network": {"z": 8, "width": 4, "discriminator_width": 4}, "batch": 8}
    Network = Settings

    @classmethod
    def condition_kind(cls, network: Any) -> ConditionKind:
        return "class" if network.classes else "none"

    def __init__(self, spec: DatasetSpec, text_dimension: int, network: Settings, objective: Objective) -> None:
        classes = class_count(spec, "sngan with network.classes", "set it to false") if network.classes else 0
        try:
            self.networks = {
                "generator": ResidualGenerator(network.z, network.width, classes, spec.size, spec.channels),
                "discriminator": Discriminator(network, classes, spec.size, spec.channels),
            }
        except ValueError as error:
            raise Refused(f"ingest.size: {error}") from error
        self.settings = network
        self.objective = objective
        self.latent = Latent(size=network.z, distribution="normal")
        self.condition = Condition(kind="class", size=classes) if classes else Condition(kind="none")
