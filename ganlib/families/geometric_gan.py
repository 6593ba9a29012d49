"""Geometric GAN: a support vector machine separates the features of real and fake (Lim & Ye 2017, arXiv 1705.02894).

The discriminator is DCGAN's; its last layer w is the hyperplane of a soft-margin SVM, so that beside the hinge of the
loss it minimises ||w||^2 / (2 C n) for n images, and the generator moves fakes along its normal. C, ten generator steps
to one of the discriminator and the batch are from the authors' code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import Field
from torch import Tensor

from ganlib.card import Condition, DatasetSpec, Latent
from ganlib.data.store import Batch
from ganlib.families.base import NetworkSettings, Phase, TwoPlayers
from ganlib.families.objective import Objective, Repeats
from ganlib.networks.dcgan import PyramidDiscriminator, PyramidGenerator
from ganlib.problems import Refused


class Settings(NetworkSettings):
    """`network` of a geometric-gan model."""

    z: int = Field(100, ge=1, description="length of the latent")
    width: int = Field(64, ge=1, description="generator: channels before the last layer")
    discriminator_width: int = Field(64, ge=1, description="discriminator: channels of the first layer")
    margin_cost: float = Field(1.0, gt=0, description="C: what the hinge counts against the width of the margin")
    generator_steps: int = Field(10, ge=1, description="generator steps in a training step")


class GeometricGAN(TwoPlayers):
    """GAN with a soft-margin discriminator."""

    preset = {
        "loss": "hinge",
        "generator": {"name": "rmsprop", "lr": 2e-4},
        "discriminator": {"name": "rmsprop", "lr": 2e-4},
        "batch": 64,
    }
    tiny = {"network": {"z": 8, "width": 4, "discriminator_width": 4, "generator_steps": 2}, "batch": 8}
    Network = Settings

    def __init__(self, spec: DatasetSpec, text_dimension: int, network: Settings, objective: Objective) -> None:
        try:
            self.networks = {
                "generator": PyramidGenerator(network.z, network.width, spec.size, spec.channels),
                "discriminator": PyramidDiscriminator(
                    network.discriminator_width, spec.size, spec.channels, bias=False
                ),
            }
        except ValueError as error:
            raise Refused(f"ingest.size: {error}") from error
        self.settings = network
        self.objective = objective
        self.latent = Latent(size=network.z, distribution="normal")
        self.condition = Condition(kind="none")

    def discriminator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """With the width of the margin, ||w||^2 / (2 C n) for a whole batch of n."""
        total, scalars = super().discriminator_loss(batch)
        discriminator: Any = self.networks["discriminator"]
        count = len(batch) if batch.whole is None else batch.whole
        squared_norm = discriminator.logit.weight.square().sum()
        return total + squared_norm / (2 * self.settings.margin_cost * count), scalars

    def phases(self) -> tuple[Phase, ...]:
        repeats = Repeats(self.settings.generator_steps)
        return tuple(
            replace(phase, repeats=repeats) if phase.name == "generator" else phase for phase in super().phases()
        )
