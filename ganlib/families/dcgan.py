"""DCGAN: the convolutional GAN (Radford et al. 2016, arXiv 1511.06434), with networks for 28, 32, 64 pixels and others.

At 64 pixels with width 64 these are the networks of the authors' Torch code, at 28 those of their Theano code; see
`ganlib.networks.dcgan`. The latter can be conditional: a label joins every layer of both, and the discriminator learns
from pairs of image and label (Mirza & Osindero 2014, arXiv 1411.1784). Latents are normal as in the Torch code; the
paper's figure and the Theano code, whose weight decay of 2.5e-5 is left out, draw them from U(-1, 1): see `latent`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import nn

from ganlib.card import Condition, DatasetSpec, Latent
from ganlib.families.base import ConditionKind, NetworkSettings, TwoPlayers, class_count
from ganlib.families.objective import Objective
from ganlib.networks.dcgan import (
    DigitsDiscriminator,
    DigitsGenerator,
    PyramidDiscriminator,
    PyramidGenerator,
    SmallDiscriminator,
    SmallGenerator,
)
from ganlib.problems import Refused


class Settings(NetworkSettings):
    """`network` of a dcgan model."""

    architecture: Literal["auto", "pyramid", "small", "digits"] = Field(
        "auto", description="auto: digits at 28 pixels, small at 32, pyramid elsewhere"
    )
    z: int = Field(100, ge=1, description="length of the latent")
    latent: Literal["normal", "uniform"] = Field("normal", description="distribution of the latent")
    width: int = Field(64, ge=1, description="generator: channels before the last layer")
    discriminator_width: int = Field(64, ge=1, description="discriminator: channels of the first layer")
    discriminator_norm: bool = Field(True, description="batch norm in the discriminator; without, add a penalty")
    classes: bool = Field(False, description="digits: labels join every layer of both networks")


class DCGAN(TwoPlayers):
    """Deep convolutional GAN."""

    preset = {
        "loss": "non-saturating",
        "generator": {"name": "adam", "lr": 2e-4, "betas": [0.5, 0.999]},
        "discriminator": {"name": "adam", "lr": 2e-4, "betas": [0.5, 0.999]},
        "batch": 128,
    }
    tiny = {"network": {"z": 8, "width": 4, "discriminator_width": 4}, "batch": 8}
    Network = Settings

    @classmethod
    def condition_kind(cls, network: Any) -> ConditionKind:
        return "class" if network.classes else "none"

    def __init__(self, spec: DatasetSpec, text_dimension: int, network: Settings, objective: Objective) -> None:
        architecture = network.architecture
        if architecture == "auto":
            architecture = "digits" if spec.size == 28 else "small" if spec.size == 32 else "pyramid"
        if network.classes and architecture != "digits":
            raise Refused(
                f"network.classes: found true, and the {architecture} networks for {spec.size} pixels read no classes; "
                "take architecture digits, or the family cgan"
            )
        classes = class_count(spec, "dcgan with network.classes", "take it without") if network.classes else 0
        try:
            generator, discriminator = _networks(architecture, network, spec.size, spec.channels, classes)
        except ValueError as error:
            raise Refused(f"ingest.size: {error}") from error
        self.networks = {"generator": generator, "discriminator": discriminator}
        self.settings = network
        self.objective = objective
        self.latent = Latent(size=network.z, distribution=network.latent)
        self.condition = Condition(kind="class", size=classes) if network.classes else Condition(kind="none")


def _networks(
    architecture: str, settings: Settings, size: int, channels: int, classes: int
) -> tuple[nn.Module, nn.Module]:
    z, width, other, norm = settings.z, settings.width, settings.discriminator_width, settings.discriminator_norm
    if architecture == "digits":
        return (
            DigitsGenerator(z, width, size, channels, classes),
            DigitsDiscriminator(other, size, channels, classes, norm),
        )
    if architecture == "small":
        return SmallGenerator(z, width, size, channels), SmallDiscriminator(other, size, channels, norm)
    return PyramidGenerator(z, width, size, channels), PyramidDiscriminator(other, size, channels, norm)
