"""SAGAN: self-attention and spectral normalisation in both networks (Zhang et al. 2019, arXiv 1805.08318).

Conditional by default, as published: class-conditional batch norm and a projection discriminator (arXiv 1802.05637).
At 128 pixels with width 64 and attention at 32 x 32 these are the published networks. At another resolution the number
of blocks changes: widths are the last ones of the generator and the first ones of the discriminator.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu

from ganlib.card import Condition, DatasetSpec, Latent
from ganlib.families.base import ConditionKind, NetworkSettings, TwoPlayers, class_count
from ganlib.families.objective import Objective
from ganlib.networks.attention import SelfAttention, attended
from ganlib.networks.convolution import pyramid
from ganlib.networks.initialisation import glorot
from ganlib.networks.normalisation import BatchNorm, class_norm
from ganlib.networks.residual import DownBlock, FirstDownBlock, UpBlock
from ganlib.networks.spectral import ProjectionLogit, SpectralConv2d, SpectralLinear
from ganlib.problems import Refused


class Settings(NetworkSettings):
    """`network` of a sagan model."""

    z: int = Field(128, ge=1, description="length of the latent")
    width: int = Field(64, ge=1, description="generator: channels of the last block; earlier ones have up to 16 times")
    discriminator_width: int = Field(64, ge=1, description="discriminator: channels of the first block")
    attention: int = Field(
        32, ge=0, description="self-attention on the largest map of at most so many pixels a side; 0 for none"
    )
    classes: bool = Field(True, description="conditional on classes, with a projection discriminator")


def factors(doublings: int) -> list[int]:
    """Widths of the blocks in multiples of the narrowest, from the image on: 1, 2, 4, 8, 16, 16 ..."""
    return [min(2**i, 16) for i in range(doublings)]


class Generator(nn.Module):
    """Latent `(N, z)`, and classes `(N,)` where there are any, to images `(N, channels, size, size)` in [-1, 1]."""

    def __init__(self, settings: Settings, classes: int, size: int, channels: int) -> None:
        super().__init__()
        base, doublings = pyramid(size)
        outs = [settings.width * factor for factor in reversed(factors(doublings))]
        widths = [outs[0], *outs]
        self.start = nn.Sequential(
            SpectralLinear(settings.z, widths[0] * base * base), nn.Unflatten(1, (widths[0], base, base))
        )
        self.blocks = nn.ModuleList(
            UpBlock(wide, narrow, class_norm(classes), SpectralConv2d)
            for wide, narrow in zip(widths, outs, strict=False)
        )
        self.place = attended(size, settings.attention)
        self.attention = None if self.place is None else SelfAttention(widths[self.place], SpectralConv2d)
        self.norm = BatchNorm(widths[-1])
        self.image = SpectralConv2d(widths[-1], channels, 3, padding=1)
        for module in self.modules():
            glorot(module)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        h = self.start(z)
        for doubled, block in enumerate(self.blocks):
            if self.attention is not None and doubled == self.place:
                h = self.attention(h)
            h = block(h, labels)
        return self.image(relu(self.norm(h))).tanh()


class Discriminator(nn.Module):
    """Images, and classes `(N,)` where there are any, to one logit each, `(N,)`: features are summed over the map."""

    def __init__(self, settings: Settings, classes: int, size: int, channels: int) -> None:
        super().__init__()
        _, doublings = pyramid(size)
        widths = [settings.discriminator_width * factor for factor in factors(doublings)]
        place = attended(size, settings.attention)
        layers: list[nn.Module] = []
        for halved, (narrow, wide) in enumerate(zip([channels, *widths], widths, strict=False), start=1):
            layers.append(
                FirstDownBlock(narrow, wide, SpectralConv2d)
                if halved == 1
                else DownBlock(narrow, wide, halve=True, conv=SpectralConv2d)
            )
            if place is not None and halved == doublings - place:
                layers.append(SelfAttention(wide, SpectralConv2d))
        layers.append(DownBlock(widths[-1], widths[-1], halve=False, conv=SpectralConv2d))
        self.features = nn.Sequential(*layers, nn.ReLU())
        self.logit = ProjectionLogit(widths[-1], classes)
        for module in self.modules():
            glorot(module)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.logit(self.features(images).float().sum(dim=(2, 3)), labels)


class SAGAN(TwoPlayers):
    """Self-attention GAN."""

    preset = {
        "loss": "hinge",
        "generator": {"name": "adam", "lr": 1e-4, "betas": [0.0, 0.9]},
        "discriminator": {"name": "adam", "lr": 4e-4, "betas": [0.0, 0.9]},
        "batch": 256,
    }
    tiny = {"network": {"z": 8, "width": 8, "discriminator_width": 8}, "batch": 8}
    Network = Settings

    @classmethod
    def condition_kind(cls, network: Any) -> ConditionKind:
        return "class" if network.classes else "none"

    def __init__(self, spec: DatasetSpec, text_dimension: int, network: Settings, objective: Objective) -> None:
        classes = class_count(spec, "sagan", "set network.classes to false") if network.classes else 0
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
        self.condition = Condition(kind="class", size=classes) if classes else Condition(kind="none")
