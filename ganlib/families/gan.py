"""GAN: the first one, dense networks with a maxout discriminator (Goodfellow et al. 2014, arXiv 1406.2661).

The networks and values are those of the authors' published MNIST configuration: two layers of 1200 ReLUs and a sigmoid
against two layers of 240 maxout units of 5 pieces, with dropout of 0.2 on the pixels and 0.5 on the units in both
players' steps; weights begin at U(-0.05, 0.05) and U(-0.005, 0.005); latents are normal (the paper names no
distribution). Pixels are in [0, 1] inside the networks. The learning rate falls by 1.000004 a step; the discriminator's
is half of the authors', whose discriminator loss is half of ours. Two things differ: their momentum grows from 0.5 to
0.7 over 250 epochs and stays at 0.5 here, and their output biases begin at the pixels' log odds, here at 0.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field
from torch import Tensor, nn

from ganlib.card import Condition, DatasetSpec, Latent
from ganlib.data.store import Batch
from ganlib.families.base import NetworkSettings, TwoPlayers
from ganlib.families.objective import Objective
from ganlib.networks.precision import in_float32

Mask = Callable[[Tensor], Tensor]


class Settings(NetworkSettings):
    """`network` of a gan model."""

    z: int = Field(100, ge=1, description="length of the latent")
    width: int = Field(1200, ge=1, description="generator: units of a hidden layer")
    discriminator_width: int = Field(240, ge=1, description="discriminator: maxout units of a hidden layer")
    pieces: int = Field(5, ge=1, description="affine maps of a maxout unit")
    pixel_dropout: float = Field(0.2, ge=0, lt=1, description="share of the pixels that the discriminator does not see")
    dropout: float = Field(0.5, ge=0, lt=1, description="share of the discriminator's units that are left out")


class Generator(nn.Module):
    """Latent `(N, z)` to images `(N, channels, size, size)` in [-1, 1]."""

    def __init__(self, settings: Settings, size: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(settings.z, settings.width),
            nn.ReLU(),
            nn.Linear(settings.width, settings.width),
            nn.ReLU(),
            nn.Linear(settings.width, channels * size**2),
            nn.Sigmoid(),
            nn.Unflatten(1, (channels, size, size)),
        )
        _begin_uniform(self, 0.05)

    def forward(self, z: Tensor) -> Tensor:
        return 2 * self.layers(z) - 1


class Maxout(nn.Module):
    """`(N, inputs)` to `(N, units)`, each the largest of its affine maps: Goodfellow et al. 2013 (arXiv 1302.4389)."""

    def __init__(self, inputs: int, units: int, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces
        self.maps = nn.Linear(inputs, units * pieces)

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x).unflatten(1, (-1, self.pieces)).max(dim=2).values


class Discriminator(nn.Module):
    """Images to one logit each, `(N,)`.

    `pixels` and `units` are what the inputs of the first and of the later layers go through: masks, for dropout.
    """

    def __init__(self, settings: Settings, size: int, channels: int) -> None:
        super().__init__()
        width = settings.discriminator_width
        self.first = Maxout(channels * size**2, width, settings.pieces)
        self.second = Maxout(width, width, settings.pieces)
        self.logit = nn.Linear(width, 1)
        _begin_uniform(self, 0.005)

    def forward(self, images: Tensor, pixels: Mask = lambda x: x, units: Mask = lambda x: x) -> Tensor:
        x = (images.flatten(1) + 1) / 2
        x = self.second(units(self.first(pixels(x))))
        return in_float32(self.logit, units(x)).flatten()


class GAN(TwoPlayers):
    """Dense GAN."""

    preset = {
        "loss": "non-saturating",
        "generator": {"name": "sgd", "lr": 0.1, "momentum": 0.5},
        "discriminator": {"name": "sgd", "lr": 0.05, "momentum": 0.5},
        "schedules": {  # ln(1e5) / ln(1.000004) steps of 100 images
            "generator.lr": {"to": 1e-6, "kimg": 287823.7, "shape": "exponential"},
            "discriminator.lr": {"to": 5e-7, "kimg": 287823.7, "shape": "exponential"},
        },
        "batch": 100,
    }
    tiny = {"network": {"z": 8, "width": 16, "discriminator_width": 8, "pieces": 2}, "batch": 8}
    Network = Settings

    def __init__(self, spec: DatasetSpec, text_dimension: int, network: Settings, objective: Objective) -> None:
        self.networks = {
            "generator": Generator(network, spec.size, spec.channels),
            "discriminator": Discriminator(network, spec.size, spec.channels),
        }
        self.settings = network
        self.objective = objective
        self.latent = Latent(size=network.z, distribution="normal")
        self.condition = Condition(kind="none")

    def critic(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        """With dropout, drawn anew each time from the batch's random numbers."""
        discriminator = self.networks["discriminator"]

        def mask(share: float) -> Mask:
            return lambda x: x * (batch.uniform(x.shape[1]) >= share) / (1 - share)

        pixels, units = mask(self.settings.pixel_dropout), mask(self.settings.dropout)
        return lambda images: discriminator(self.objective.view(images, batch), pixels, units)


def _begin_uniform(network: nn.Module, limit: float) -> None:
    """Weights of dense layers U(-limit, limit), biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.uniform_(module.weight, -limit, limit)
            nn.init.zeros_(module.bias)
