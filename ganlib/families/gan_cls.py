"""GAN-CLS and GAN-INT-CLS: text to image with a matching-aware discriminator (Reed et al. 2016, arXiv 1605.05396).

At 64 pixels with width 128 and discriminator_width 64 these are the published networks. At another resolution the
number of doublings changes and nothing else.
Embeddings have a mean square of 1, and the layers that read them begin at that scale rather than at N(0, 0.02).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ganlib.card import Condition, DatasetSpec, Latent
from ganlib.data.store import Batch
from ganlib.families.base import ConditionKind, MatchingAware, NetworkSettings
from ganlib.families.objective import Objective
from ganlib.networks.convolution import Bottleneck, down, pyramid, up
from ganlib.networks.initialisation import dcgan_normal, dense_normal
from ganlib.networks.precision import in_float32
from ganlib.problems import Refused


class Settings(NetworkSettings):
    """`network` of a gan-cls model."""

    z: int = Field(100, ge=1, description="length of the latent")
    width: int = Field(128, ge=4, description="generator: channels before the last layer (ngf)")
    discriminator_width: int = Field(64, ge=4, description="discriminator: channels of the first layer (ndf)")
    text: int = Field(128, ge=1, description="length to which a caption's embedding is projected, in both networks")
    discriminator_norm: bool = Field(True, description="batch norm in the discriminator; without, add r1")
    interpolate: bool = Field(False, description="GAN-INT: half a batch of interpolated captions joins the generator's")


class Generator(nn.Module):
    """Latent `(N, z)` and caption embedding `(N, d)` to images `(N, channels, size, size)` in [-1, 1]."""

    def __init__(self, settings: Settings, text_dimension: int, size: int, channels: int) -> None:
        super().__init__()
        base, doublings = pyramid(size)
        widths = [settings.width * 2**i for i in reversed(range(doublings))]  # at 64 px: 8, 4, 2, 1 times the width
        self.project = nn.Sequential(nn.Linear(text_dimension, settings.text), nn.LeakyReLU(0.2))
        self.start = nn.Sequential(
            nn.ConvTranspose2d(settings.z + settings.text, widths[0], base, bias=False), nn.BatchNorm2d(widths[0])
        )
        layers: list[nn.Module] = [Bottleneck(widths[0], nn.ReLU())]
        for i, (wide, narrow) in enumerate(pairwise(widths)):
            layers.append(up(wide, narrow))
            if i == 0:
                layers.append(Bottleneck(narrow, nn.ReLU()))
        self.body = nn.Sequential(*layers)
        self.image = nn.Sequential(nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1), nn.Tanh())
        self.apply(dcgan_normal)
        dense_normal(self.project[0], text_dimension**-0.5)  # text comes in as loud as the latent

    def forward(self, z: Tensor, text: Tensor) -> Tensor:
        joined = torch.cat([z, self.project(text)], dim=1)
        return self.image(self.body(self.start(joined[:, :, None, None])))


class Discriminator(nn.Module):
    """Images and caption embeddings to one logit each; the images' features serve several captions."""

    def __init__(self, settings: Settings, text_dimension: int, size: int, channels: int) -> None:
        super().__init__()
        base, doublings = pyramid(size)
        width, norm = settings.discriminator_width, settings.discriminator_norm
        widths = [width * 2**i for i in range(doublings)]
        self.features = nn.Sequential(
            down(channels, width, norm=False),
            *(down(narrow, wide, norm) for narrow, wide in pairwise(widths)),
            Bottleneck(widths[-1], nn.LeakyReLU(0.2), norm),
        )
        self.project = nn.Sequential(
            nn.Linear(text_dimension, settings.text, bias=not norm),
            nn.BatchNorm1d(settings.text) if norm else nn.Identity(),
            nn.LeakyReLU(0.2),
        )
        self.join = nn.Sequential(
            nn.Conv2d(widths[-1] + settings.text, widths[-1], 1, bias=not norm),
            nn.BatchNorm2d(widths[-1]) if norm else nn.Identity(),
            nn.LeakyReLU(0.2),
        )
        self.logit = nn.Conv2d(widths[-1], 1, base)
        if norm:  # without it, weights of 0.02 would let the signal die out; torch's own initialisation keeps it
            self.apply(dcgan_normal)
        dense_normal(self.project[0], text_dimension**-0.5)

    def match(self, features: Tensor, text: Tensor) -> Tensor:
        """Logits `(N,)` for features of images `(N, c, h, w)` beside embeddings `(N, d)`."""
        tiled = self.project(text)[:, :, None, None].expand(-1, -1, *features.shape[2:])
        return in_float32(self.logit, self.join(torch.cat([features, tiled], dim=1))).flatten()

    def forward(self, images: Tensor, text: Tensor) -> Tensor:
        return self.match(self.features(images), text)


class GANCLS(MatchingAware):
    """Matching-aware text-to-image GAN."""

    preset = {
        "loss": "non-saturating",
        "generator": {"name": "adam", "lr": 2e-4, "betas": [0.5, 0.999]},
        "discriminator": {"name": "adam", "lr": 2e-4, "betas": [0.5, 0.999]},
        "batch": 64,
        "mismatch": "class",
        "captions": 4,
    }
    tiny = {"network": {"z": 8, "width": 4, "discriminator_width": 4, "text": 8}, "batch": 8}
    Network = Settings

    @classmethod
    def condition_kind(cls, network: Any) -> ConditionKind:
        return "text"

    def __init__(self, spec: DatasetSpec, text_dimension: int, network: Settings, objective: Objective) -> None:
        if not text_dimension:
            raise Refused("family: gan-cls reads captions, and this dataset has none embedded; take cgan or dcgan")
        try:
            self.networks = {
                "generator": Generator(network, text_dimension, spec.size, spec.channels),
                "discriminator": Discriminator(network, text_dimension, spec.size, spec.channels),
            }
        except ValueError as error:
            raise Refused(f"ingest.size: {error}") from error
        self.settings = network
        self.objective = objective
        self.latent = Latent(size=network.z, distribution="normal")
        self.condition = Condition(kind="text", size=text_dimension)

    def generator_batch(self, batch: Batch) -> Batch:
        """With GAN-INT, half a batch of interpolated captions joins (eq. 5, beta 1/2)."""
        if not self.settings.interpolate:
            return super().generator_batch(batch)
        texts, half = batch.texts, len(batch) // 2
        assert texts is not None
        between = (texts[:half] + texts[half : 2 * half]) / 2
        return replace(batch.extended(len(batch) + half), texts=torch.cat([texts, between]))
