"""f-GAN: any f-divergence, by its variational lower bound (Nowozin et al. 2016, arXiv 1606.00709).

Up to 32 pixels the dense networks of the paper's MNIST experiment: two layers of 1200 units with batch norm and ReLU
and a sigmoid against two layers of 240 ELUs, latents U(-1, 1), Adam 2e-4 with beta 1/2, batches of 4096. Beyond that
DCGAN's networks, as in its LSUN experiment. Both experiments train the Kullback-Leibler divergence, the preset here;
`loss` of params.yaml takes any other f- name. The deviations of the first weights, 0.05 and 0.005, are as other
implementations report them from the paper's appendix, and were not checked against it. Pixels are in [0, 1] inside the
dense networks.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from ganlib.card import Condition, DatasetSpec, Latent
from ganlib.families.base import NetworkSettings, TwoPlayers
from ganlib.families.objective import Objective
from ganlib.networks.dcgan import PyramidDiscriminator, PyramidGenerator
from ganlib.networks.precision import in_float32
from ganlib.problems import Refused


class Settings(NetworkSettings):
    """`network` of an f-gan model."""

    architecture: Literal["auto", "mlp", "dcgan"] = Field("auto", description="auto: mlp up to 32 pixels, then dcgan")
    z: int = Field(100, ge=1, description="length of the latent")
    hidden: int = Field(1200, ge=1, description="mlp: units of a hidden layer of the generator")
    discriminator_hidden: int = Field(240, ge=1, description="mlp: units of a hidden layer of the discriminator")
    width: int = Field(64, ge=1, description="dcgan: channels before the generator's last layer")
    discriminator_width: int = Field(64, ge=1, description="dcgan: channels of the discriminator's first layer")


class Generator(nn.Module):
    """Latent `(N, z)` to images `(N, channels, size, size)` in [-1, 1], by dense layers."""

    def __init__(self, settings: Settings, size: int, channels: int) -> None:
        super().__init__()
        hidden = settings.hidden
        self.layers = nn.Sequential(
            nn.Linear(settings.z, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, channels * size**2),
            nn.Sigmoid(),
            nn.Unflatten(1, (channels, size, size)),
        )
        _begin_normal(self, 0.05)

    def forward(self, z: Tensor) -> Tensor:
        return 2 * self.layers(z) - 1


class Discriminator(nn.Module):
    """Images to the paper's v, one each, `(N,)`, by dense layers; the loss holds the divergence's output activation."""

    def __init__(self, settings: Settings, size: int, channels: int) -> None:
        super().__init__()
        hidden = settings.discriminator_hidden
        self.layers = nn.Sequential(
            nn.Linear(channels * size**2, hidden), nn.ELU(), nn.Linear(hidden, hidden), nn.ELU()
        )
        self.logit = nn.Linear(hidden, 1)
        _begin_normal(self, 0.005)

    def forward(self, images: Tensor) -> Tensor:
        return in_float32(self.logit, self.layers((images.flatten(1) + 1) / 2)).flatten()


class FGAN(TwoPlayers):
    """Variational divergence minimisation."""

    preset = {
        "loss": "f-kl",
        "generator": {"name": "adam", "lr": 2e-4, "betas": [0.5, 0.999]},
        "discriminator": {"name": "adam", "lr": 2e-4, "betas": [0.5, 0.999]},
        "batch": 4096,
    }
    tiny = {
        "network": {"z": 8, "hidden": 16, "discriminator_hidden": 8, "width": 4, "discriminator_width": 4},
        "batch": 8,
    }
    Network = Settings

    def __init__(self, spec: DatasetSpec, text_dimension: int, network: Settings, objective: Objective) -> None:
        dense = network.architecture == "mlp" or (network.architecture == "auto" and spec.size <= 32)
        generator: nn.Module
        discriminator: nn.Module
        try:
            if dense:
                generator = Generator(network, spec.size, spec.channels)
                discriminator = Discriminator(network, spec.size, spec.channels)
            else:
                generator = PyramidGenerator(network.z, network.width, spec.size, spec.channels)
                discriminator = PyramidDiscriminator(network.discriminator_width, spec.size, spec.channels)
        except ValueError as error:
            raise Refused(f"ingest.size: {error}; or take network.architecture mlp") from error
        self.networks = {"generator": generator, "discriminator": discriminator}
        self.settings = network
        self.objective = objective
        self.latent = Latent(size=network.z, distribution="uniform")
        self.condition = Condition(kind="none")


def _begin_normal(network: nn.Module, deviation: float) -> None:
    """Weights of dense layers N(0, deviation^2), biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, deviation)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
