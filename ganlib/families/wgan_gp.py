"""WGAN-GP: a residual critic held to slope 1 by its gradient penalty (Gulrajani et al. 2017, arXiv 1704.00028).

At 32 pixels these are the published residual networks for CIFAR-10. At another resolution the number of blocks that
double or halve changes. With `auxiliary` it is the paper's conditional model: class-conditional batch norm in the
generator, and a classifier of Odena et al. 2017 (AC-GAN, arXiv 1610.09585) on the critic's features. Its generator is
asked for the classes of the batch, where the paper's draws them evenly.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ganlib.card import Condition, DatasetSpec, Latent
from ganlib.data.store import Batch
from ganlib.families.base import ConditionKind, NetworkSettings, TwoPlayers, class_count
from ganlib.families.objective import Objective
from ganlib.networks.initialisation import glorot
from ganlib.networks.precision import in_float32
from ganlib.networks.residual import DownBlock, FirstDownBlock, ResidualGenerator, halvings
from ganlib.problems import Refused

LEVEL = 1 / 128  # of images in [-1, 1]: the width of the noise that makes 8-bit levels continuous


class Settings(NetworkSettings):
    """`network` of a wgan-gp model."""

    z: int = Field(128, ge=1, description="length of the latent")
    width: int = Field(128, ge=1, description="generator: channels of every layer")
    discriminator_width: int = Field(128, ge=1, description="critic: channels of every layer")
    auxiliary: bool = Field(False, description="conditional on classes, with a classifier on the critic (AC-GAN)")
    auxiliary_weight: float = Field(1.0, ge=0, description="critic: cross entropy of the classes of real images")
    generator_auxiliary_weight: float = Field(0.1, ge=0, description="generator: cross entropy of the asked classes")


class Discriminator(nn.Module):
    """Images to one logit each, `(N,)`: the critic. Classes do not enter; the classifier beside it tells them."""

    def __init__(self, settings: Settings, classes: int, size: int, channels: int) -> None:
        super().__init__()
        width, halved = settings.discriminator_width, halvings(size)
        self.features = nn.Sequential(
            FirstDownBlock(channels, width),
            *(DownBlock(width, width, halve=True) for _ in range(halved - 1)),
            *(DownBlock(width, width, halve=False) for _ in range(2)),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.logit = glorot(nn.Linear(width, 1))
        self.classifier = glorot(nn.Linear(width, classes)) if classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return in_float32(self.logit, self.features(images)).flatten()

    def judge_and_classify(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(N,)`, and logits of the classes `(N, classes)`, in one pass."""
        assert self.classifier is not None
        features = self.features(images)
        return in_float32(self.logit, features).flatten(), in_float32(self.classifier, features)


class WGANGP(TwoPlayers):
    """Wasserstein GAN with gradient penalty."""

    preset = {
        "loss": "wasserstein",
        "penalties": {"gradient-penalty": 10.0},
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
        return "class" if network.auxiliary else "none"

    def __init__(self, spec: DatasetSpec, text_dimension: int, network: Settings, objective: Objective) -> None:
        classes = class_count(spec, "wgan-gp with network.auxiliary", "set it to false") if network.auxiliary else 0
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

    def dequantised(self, batch: Batch) -> Batch:
        """The batch with U[0, 1/128) on its images."""
        return replace(batch, images=batch.images + LEVEL * batch.uniform(*batch.images.shape[1:]))

    def discriminator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        batch = self.dequantised(batch)
        if not self.settings.auxiliary:
            return super().discriminator_loss(batch)
        with torch.no_grad():
            fake = self.fakes(batch)
        p_real, of_real = self._judge_and_classify(batch.images, batch)
        p_fake, of_fake = self._judge_and_classify(fake, batch)
        assert batch.labels is not None
        total = self.objective.discriminator(p_real, p_fake) + self.objective.logit_penalty(p_real, p_fake)
        total = total + self.settings.auxiliary_weight * cross_entropy(of_real, batch.labels)
        if self.objective.has_penalty() and self.objective.penalty_every == 1:
            total = total + self._penalty(batch, fake)
        accuracies = {
            "class_accuracy": accuracy(of_real, batch.labels),
            "class_accuracy_fake": accuracy(of_fake, batch.labels),
        }
        return total, self.objective.observe(p_real, p_fake) | accuracies

    def penalty_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return super().penalty_loss(self.dequantised(batch))

    def generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        batch = self.dequantised(batch)  # a relativistic loss compares with it
        if not self.settings.auxiliary:
            return super().generator_loss(batch)
        asked = self.generator_batch(batch)
        p_fake, of_fake = self._judge_and_classify(self.fakes(asked), asked)
        assert asked.labels is not None
        total = self.objective.generator(self.beside(p_fake, batch), p_fake)
        total = total + self.settings.generator_auxiliary_weight * cross_entropy(of_fake, asked.labels)
        if self.objective.has_generator_penalty() and self.objective.generator_penalty_every == 1:
            total = total + self._generator_penalty(batch)
        return total, {}

    def _judge_and_classify(self, images: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        critic: Any = self.networks["discriminator"]
        found: tuple[Tensor, Tensor] = critic.judge_and_classify(self.objective.view(images, batch))
        return found


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of the rows of `(N, classes)` whose largest logit is that of the label."""
    return (logits.detach().argmax(dim=1) == labels).float().mean()
