"""BigGAN: wide, class-conditional, with attention and a hierarchical latent (Brock et al. 2019, arXiv 1809.11096).

Architecture by resolution: appendix B, table 4 from 128 pixels on (width 96 there), the authors' own layouts for 64
pixels and for CIFAR-10 up to 32. Each block's batch norms read the class's shared vector beside a piece of the latent
of their own; the first layer reads the first piece alone.

The preset trains as the authors' CIFAR-10 runs do (batch 50, 4 discriminator steps, rates 2e-4, the average from step
1,000 on), with the paper's architecture and orthogonal regulariser (eq. 3, 1e-4), which make truncation work. Those
runs themselves have none of it: `attention: 0` and `generator_penalties: {}` come near them. The paper's 128 pixels:
batch 2048, 2 discriminator steps, rates 5e-5 and 2e-4.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu

from ganlib.card import Condition, DatasetSpec, Latent
from ganlib.families.base import ConditionKind, NetworkSettings, TwoPlayers, class_count
from ganlib.families.objective import Objective
from ganlib.networks.attention import SelfAttention, attended
from ganlib.networks.convolution import pyramid
from ganlib.networks.initialisation import orthogonal
from ganlib.networks.normalisation import BatchNorm, ConditionalBatchNorm
from ganlib.networks.residual import DownBlock, FirstDownBlock, UpBlock, halvings
from ganlib.networks.spectral import ProjectionLogit, SpectralConv2d, SpectralLinear
from ganlib.problems import Refused

# Widths of the blocks in multiples of `width`, by the number of doublings from 4 x 4: 64, 128, 256 and 512 pixels.
GENERATOR = {4: (16, 8, 4, 2), 5: (16, 8, 4, 2, 1), 6: (16, 8, 8, 4, 2, 1), 7: (16, 8, 8, 4, 2, 1, 1)}
DISCRIMINATOR = {  # the last block is flat
    4: (1, 2, 4, 8, 16),
    5: (1, 2, 4, 8, 16, 16),
    6: (1, 2, 4, 8, 8, 16, 16),
    7: (1, 1, 2, 4, 8, 8, 16, 16),
}
CIFAR = 4  # up to 3 doublings every block has this width, and the discriminator ends with two flat ones


class Settings(NetworkSettings):
    """`network` of a biggan model."""

    chunk: int = Field(
        20, ge=1, description="length of a piece of the latent: one goes to the first layer, one to each block"
    )
    shared: int = Field(128, ge=1, description="length of a class's vector, shared by the generator's layers")
    width: int = Field(64, ge=1, description="generator: channels, in the unit of the published tables (ch)")
    discriminator_width: int = Field(64, ge=1, description="the same for the discriminator")
    attention: int = Field(
        64, ge=0, description="self-attention on the largest map of at most so many pixels a side; 0 for none"
    )


class Generator(nn.Module):
    """Latent `(N, pieces * chunk)` and classes `(N,)` int64 to images `(N, channels, size, size)` in [-1, 1]."""

    def __init__(self, settings: Settings, classes: int, size: int, channels: int) -> None:
        super().__init__()
        base, doublings = pyramid(size)
        self.chunk = settings.chunk
        outs = [settings.width * factor for factor in GENERATOR.get(doublings, (CIFAR,) * doublings)]
        widths = [outs[0], *outs]
        read = settings.shared + settings.chunk

        def norm(channels: int) -> nn.Module:
            scale, shift = (SpectralLinear(read, channels, bias=False) for _ in range(2))
            return ConditionalBatchNorm(channels, scale, shift)

        self.shared = nn.Embedding(classes, settings.shared)  # not normalised: the authors found that it harms G
        self.start = nn.Sequential(
            SpectralLinear(settings.chunk, widths[0] * base * base), nn.Unflatten(1, (widths[0], base, base))
        )
        self.blocks = nn.ModuleList(
            UpBlock(wide, narrow, norm, SpectralConv2d) for wide, narrow in zip(widths, outs, strict=False)
        )
        self.place = attended(size, settings.attention)
        self.attention = None if self.place is None else SelfAttention(widths[self.place], SpectralConv2d)
        self.norm = BatchNorm(widths[-1])
        self.image = SpectralConv2d(widths[-1], channels, 3, padding=1)
        self.apply(orthogonal)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        first, *pieces = z.split(self.chunk, dim=1)
        vector = self.shared(labels)
        h = self.start(first)
        for doubled, (block, piece) in enumerate(zip(self.blocks, pieces, strict=True)):
            if self.attention is not None and doubled == self.place:
                h = self.attention(h)
            h = block(h, torch.cat([vector, piece], dim=1))
        return self.image(relu(self.norm(h))).tanh()


class Discriminator(nn.Module):
    """Images and classes `(N,)` to one logit each, `(N,)`: features are summed over the map, the class projected."""

    def __init__(self, settings: Settings, classes: int, size: int, channels: int) -> None:
        super().__init__()
        _, doublings = pyramid(size)
        published = DISCRIMINATOR.get(doublings)
        halved = halvings(size) if published is None else doublings
        widths = [settings.discriminator_width * factor for factor in published or (CIFAR,) * (halved + 2)]
        place = attended(size, settings.attention)
        layers: list[nn.Module] = [FirstDownBlock(channels, widths[0], SpectralConv2d)]
        for block, wide in enumerate(widths, start=1):
            if block > 1:
                layers.append(DownBlock(widths[block - 2], wide, halve=block <= halved, conv=SpectralConv2d))
            if place is not None and block == doublings - place and block <= halved:
                layers.append(SelfAttention(wide, SpectralConv2d))
        self.features = nn.Sequential(*layers, nn.ReLU())
        self.logit = ProjectionLogit(widths[-1], classes)
        self.apply(orthogonal)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.logit(self.features(images).float().sum(dim=(2, 3)), labels)


class BigGAN(TwoPlayers):
    """Class-conditional GAN at scale."""

    preset = {
        "loss": "hinge",
        "generator_penalties": {"orthogonal": 1e-4},
        "generator": {"name": "adam", "lr": 2e-4, "betas": [0.0, 0.999]},
        "discriminator": {"name": "adam", "lr": 2e-4, "betas": [0.0, 0.999]},
        "discriminator_steps": 4,
        "batch": 50,
        # 0.9999 a step: half-life log(1/2) / log(0.9999) = 6931.1 steps of 50 images; before step 1,000 no average
        "ema": {"half_life": 0.0, "ramp_up": None},
        "schedules": {"ema.half_life": {"to": 346.556, "after": 50.0, "kimg": 0.05}},
    }
    tiny = {"network": {"chunk": 4, "shared": 8, "width": 4, "discriminator_width": 4}, "batch": 8}
    Network = Settings

    @classmethod
    def condition_kind(cls, network: Any) -> ConditionKind:
        return "class"

    def __init__(self, spec: DatasetSpec, text_dimension: int, network: Settings, objective: Objective) -> None:
        classes = class_count(spec, "biggan", "take sngan, or sagan with network.classes false")
        try:
            _, doublings = pyramid(spec.size)
            if doublings > max(GENERATOR):
                raise ValueError(f"found {spec.size} pixels; biggan has layouts of up to {max(GENERATOR)} doublings")
            self.networks = {
                "generator": Generator(network, classes, spec.size, spec.channels),
                "discriminator": Discriminator(network, classes, spec.size, spec.channels),
            }
        except ValueError as error:
            raise Refused(f"ingest.size: {error}") from error
        self.settings = network
        self.objective = objective
        self.latent = Latent(size=network.chunk * (doublings + 1), distribution="normal")
        self.condition = Condition(kind="class", size=classes)
