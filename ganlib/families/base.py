"""What a GAN family is: networks, phases and a sampler. A new family is one file with one class, and one registry line.

The engine trains any family by its phases alone. A family never looks at files, devices, steps or logs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from ganlib.card import Condition, DatasetSpec, Latent
from ganlib.data.store import Batch
from ganlib.losses.adversarial import Loss
from ganlib.losses.penalties import Critic, Penalty


class NetworkSettings(BaseModel):
    """Base of a family's own settings (`train.NAME.network` in params.yaml): frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


@dataclass(frozen=True)
class Objective:
    """What params.yaml chooses for every family: the loss by name, the and the penalties.

    Attributes:
        loss: the adversarial loss, a pair of functions of the logits (see `ganlib.losses.adversarial`).
        penalties: weight and function of each (see `ganlib.losses.penalties`).
        penalty_every: 1, or the interval of a phase of their own.
        discriminator_steps: discriminator steps, each with a real batch of its own, for each generator step.
    """

    loss: Loss
    penalties: tuple[tuple[float, Penalty], ...] = ()
    penalty_every: int = 1
    discriminator_steps: int = 1

    def penalty(self, critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
        """The weighted sum of the penalties, times their interval, so that lazy ones weigh as much on average."""
        terms = [weight * penalty(critic, real, fake) for weight, penalty in self.penalties]
        return torch.stack(terms).sum() * self.penalty_every

    def probabilities(self, p_real: Tensor, p_fake: Tensor, **others: Tensor) -> dict[str, Tensor]:
        """Mean probabilities for the log, from logits by name.

        Losses that compare real with fake leave the common level of all logits free: theirs are taken from the middle
        between the means of real and fake.
        """
        middle = (p_real.detach().mean() + p_fake.detach().mean()) / 2 if self.loss.needs_real else 0.0
        logits = {"p_real": p_real, **others, "p_fake": p_fake}
        return {name: (value.detach() - middle).sigmoid().mean() for name, value in logits.items()}


PhaseLoss = Callable[[Batch], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Phase:
    """One optimiser step: what it trains and the loss that it minimises.

    Attributes:
        name: in logs, for example `discriminator`.
        trains: names of entries of `Family.networks`; the others are frozen meanwhile.
        optimiser: the section of params.yaml that says how: `generator` or `discriminator`.
        loss: from a batch of real data to a scalar and to scalars for the log.
        repeats: times in a training step, each with a real batch of its own.
        every: only in each n-th training step.
    """

    name: str
    trains: tuple[str, ...]
    optimiser: str
    loss: PhaseLoss
    repeats: int = 1
    every: int = 1


class Family(ABC):
    """A member of the GAN family tree.

    Class attributes:
        preset: published values, in the form of a `train` section of params.yaml.
        tiny: overrides for the smallest configuration of the same code, for tests.
        Network: the family's own settings.
        condition_kind: what it is conditioned on: "none", "class" or "text".
    """

    preset: ClassVar[Mapping[str, Any]]
    tiny: ClassVar[Mapping[str, Any]]
    Network: ClassVar[type[NetworkSettings]]
    condition_kind: ClassVar[str]

    networks: dict[str, nn.Module]
    latent: Latent
    condition: Condition

    @abstractmethod
    def __init__(self, spec: DatasetSpec, text_dimension: int, network: Any, objective: Objective) -> None:
        """Build the networks.

        Args:
            spec: the data: image size, channels, classes.
            text_dimension: length of a caption's embedding, 0 where there are none.
            network: an instance of `Network`.
            objective: loss and penalties.

        Raises:
            Refused: where this family cannot work with such data, naming what would do.
        """

    @abstractmethod
    def phases(self) -> tuple[Phase, ...]:
        """The optimiser steps of one training step, in order."""

    @abstractmethod
    def sample(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """Images `(N, C, H, W)` in [-1, 1] by the networks in `networks` (the engine puts the averaged ones there).

        Args:
            z: latents `(N, latent.size)` of the card's distribution.
            condition: embeddings `(N, d)` float32, labels `(N,)` int64, or None, by `condition.kind`.
        """

    def averaged(self) -> tuple[str, ...]:
        """Names of the networks whose weights are averaged (EMA), saved as the result and exported."""
        return ("generator",)

    def after_step(self, values: Mapping[str, Tensor | float]) -> None:  # noqa: B027 (most families have no such state)
        """Called after each training step with its scalars (what the log gets), for state that follows them."""


class TwoPlayers(Family):
    """A family of one discriminator and one generator: a phase each, and one for lazy penalties between them."""

    objective: Objective

    @abstractmethod
    def discriminator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What the discriminator minimises, with the penalties unless they are lazy, and scalars for the log."""

    @abstractmethod
    def penalty_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The penalties alone, for a phase of their own."""

    @abstractmethod
    def generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What the generator minimises, and scalars for the log."""

    def phases(self) -> tuple[Phase, ...]:
        repeats = self.objective.discriminator_steps
        discriminator = Phase("discriminator", ("discriminator",), "discriminator", self.discriminator_loss, repeats)
        generator = Phase("generator", ("generator",), "generator", self.generator_loss)
        every = self.objective.penalty_every
        if not self.objective.penalties or every == 1:
            return discriminator, generator
        penalty = Phase("penalty", ("discriminator",), "discriminator", self.penalty_loss, every=every)
        return discriminator, penalty, generator
