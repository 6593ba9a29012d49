"""LSGAN: real and fake are regressed to 1 and 0 (Mao et al. 2017, arXiv 1611.04076).

At 112 pixels with width 64 these are the authors' networks (their code's 3x3 kernels in the generator, 5x5 in the
discriminator). At another resolution the number of doublings changes: the generator's last two lead to twice the width
and to the width; those before them to four times the width, each followed by a further convolution that keeps the size.
The discriminator's channels double with each halving up to eight times its width. Latents are U(-1, 1).
"""

from __future__ import annotations

from itertools import pairwise

from pydantic import Field
from torch import Tensor, nn

from ganlib.card import Condition, DatasetSpec, Latent
from ganlib.families.base import NetworkSettings, TwoPlayers
from ganlib.families.objective import Objective
from ganlib.networks.convolution import pyramid
from ganlib.networks.initialisation import dcgan_normal
from ganlib.networks.precision import in_float32
from ganlib.problems import Refused


class Settings(NetworkSettings):
    """`network` of an lsgan model."""

    z: int = Field(1024, ge=1, description="length of the latent")
    width: int = Field(64, ge=1, description="generator: channels before the last layer")
    discriminator_width: int = Field(64, ge=1, description="discriminator: channels of the first layer")


class Generator(nn.Module):
    """Latent `(N, z)` to images `(N, channels, size, size)` in [-1, 1]."""

    def __init__(self, settings: Settings, size: int, channels: int) -> None:
        super().__init__()
        base, doublings = pyramid(size)
        width = settings.width
        widths = [4 * width, *[4 * width] * (doublings - 2), *[2 * width, width][-doublings:]]
        first = widths[0] * base**2
        self.start = nn.Sequential(
            nn.Linear(settings.z, first, bias=False),
            nn.BatchNorm1d(first),
            nn.ReLU(),
            nn.Unflatten(1, (widths[0], base, base)),
        )
        layers: list[nn.Module] = []
        for i, (wide, narrow) in enumerate(pairwise(widths)):
            layers += _transposed(wide, narrow, doubles=True)
            if i < doublings - 2:
                layers += _transposed(narrow, narrow, doubles=False)
        self.body = nn.Sequential(*layers)
        self.image = nn.Sequential(nn.ConvTranspose2d(width, channels, 3, padding=1), nn.Tanh())
        self.apply(dcgan_normal)

    def forward(self, z: Tensor) -> Tensor:
        return self.image(self.body(self.start(z)))


class Discriminator(nn.Module):
    """Images to one logit each, `(N,)`; no batch norm in the first layer."""

    def __init__(self, settings: Settings, size: int, channels: int) -> None:
        super().__init__()
        base, doublings = pyramid(size)
        width = settings.discriminator_width
        widths = [width * 2 ** min(i, 3) for i in range(doublings)]
        self.layers = nn.Sequential(nn.Conv2d(channels, width, 5, 2, 2), nn.LeakyReLU(0.2))
        for narrow, wide in pairwise(widths):
            self.layers.extend([nn.Conv2d(narrow, wide, 5, 2, 2, bias=False), nn.BatchNorm2d(wide), nn.LeakyReLU(0.2)])
        self.logit = nn.Linear(widths[-1] * base**2, 1)
        self.apply(dcgan_normal)

    def forward(self, images: Tensor) -> Tensor:
        return in_float32(self.logit, self.layers(images).flatten(1)).flatten()


class LSGAN(TwoPlayers):
    """Least squares GAN."""

    preset = {
        "loss": "least-squares",
        "generator": {"name": "adam", "lr": 1e-3, "betas": [0.5, 0.999]},
        "discriminator": {"name": "adam", "lr": 1e-3, "betas": [0.5, 0.999]},
        "batch": 64,
    }
    tiny = {"network": {"z": 8, "width": 4, "discriminator_width": 4}, "batch": 8}
    Network = Settings

    def __init__(self, spec: DatasetSpec, text_dimension: int, network: Settings, objective: Objective) -> None:
        try:
            self.networks = {
                "generator": Generator(network, spec.size, spec.channels),
                "discriminator": Discriminator(network, spec.size, spec.channels),
            }
        except ValueError as error:
            raise Refused(f"ingest.size: {error}") from error
        self.settings = network
        self.objective = objective
        self.latent = Latent(size=network.z, distribution="uniform")
        self.condition = Condition(kind="none")


def _transposed(wide: int, narrow: int, doubles: bool) -> list[nn.Module]:
    """Transposed convolution 3x3, with stride 2 where it doubles height and width; batch norm, ReLU."""
    stride = 2 if doubles else 1
    return [
        nn.ConvTranspose2d(wide, narrow, 3, stride, 1, output_padding=stride - 1, bias=False),
        nn.BatchNorm2d(narrow),
        nn.ReLU(),
    ]
