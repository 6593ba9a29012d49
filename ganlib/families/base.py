"""What a GAN family is: networks, phases and a sampler. A new family is one file with one class, and one registry line.

The engine trains any family by its phases alone. A family never looks at files, devices, steps or logs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from ganlib.card import Condition, DatasetSpec, Latent
from ganlib.data.store import Batch
from ganlib.families.objective import ONCE, Objective, Repeats
from ganlib.problems import Refused

ConditionKind = Literal["none", "class", "text"]


class NetworkSettings(BaseModel):
    """Base of a family's own settings (`train.NAME.network` in params.yaml): frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


PhaseLoss = Callable[[Batch], tuple[Tensor, dict[str, Tensor]]]
Values = Mapping[str, Tensor | float]


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
        fresh: whether it takes a real batch of its own; where not, phases share the step's first.
        when: whether to run, from the scalars of the training step so far; None for always.
    """

    name: str
    trains: tuple[str, ...]
    optimiser: str
    loss: PhaseLoss
    repeats: Repeats = ONCE
    every: int = 1
    fresh: bool = False
    when: Callable[[Values], bool] | None = None


@dataclass(frozen=True)
class Chapter:
    """A stretch of the training with phases of its own. Optimisers begin anew with each chapter.

    Attributes:
        name: for people.
        share: its part of all steps; the shares of a curriculum sum to 1.
        phases: the optimiser steps of one training step, in order.
    """

    name: str
    share: float
    phases: tuple[Phase, ...]


class Family(ABC):
    """A member of the GAN family tree.

    Class attributes:
        preset: published values, in the form of a `train` section of params.yaml.
        tiny: overrides for the smallest configuration of the same code, for tests.
        Network: the family's own settings.

    Attributes:
        networks: by name; all of them are trained, averaged where `averaged` says so, and kept in checkpoints.
        settings: an instance of `Network`. The engine replaces it where a float of it follows a schedule, so losses
            read it anew each time.
        objective: loss, penalties and augmentation.
        latent: the random input.
        condition: what the generator is asked for.
        state: further tensors that go with the run into its checkpoints; the engine moves them to the device. They
            change in place.
    """

    preset: ClassVar[Mapping[str, Any]]
    tiny: ClassVar[Mapping[str, Any]]
    Network: ClassVar[type[NetworkSettings]]

    networks: dict[str, nn.Module]
    settings: Any
    objective: Objective
    latent: Latent
    condition: Condition
    state: Mapping[str, Tensor] = MappingProxyType({})

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

    @classmethod
    @abstractmethod
    def condition_kind(cls, network: Any) -> ConditionKind:
        """What a model with these settings is conditioned on; known before there is data."""

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

    def curriculum(self) -> tuple[Chapter, ...]:
        """The chapters of the training; one, with `phases`, unless the family grows."""
        return (Chapter("all", 1.0, self.phases()),)

    def enter(self, chapter: int, progress: float) -> None:  # noqa: B027 (most families have one chapter)
        """Called before each training step, for what follows from its place alone (a fade, a resolution).

        Args:
            chapter: index into the curriculum.
            progress: share of the chapter that is done, in [0, 1).
        """

    def averaged(self) -> tuple[str, ...]:
        """Names of the networks whose weights are averaged (EMA), saved as the result and exported."""
        return ("generator",)

    def after_step(self, values: Values) -> None:  # noqa: B027 (most families have no such state)
        """Called after each training step with its scalars (what the log gets), for `state` that follows them."""

    def latents(self, batch: Batch) -> Tensor:
        """Fresh latents `(N, latent.size)` for the items of a batch."""
        size = self.latent.size
        return batch.normal(size) if self.latent.distribution == "normal" else 2 * batch.uniform(size) - 1

    def asked(self, batch: Batch) -> Tensor | None:
        """The conditions of a batch's items, by `condition.kind`."""
        return {"none": None, "class": batch.labels, "text": batch.texts}[self.condition.kind]


class TwoPlayers(Family):
    """A family of one `generator` and one `discriminator`: a phase each, and one for lazy penalties on either.

    A subclass builds `networks["generator"]`, called with latents and, where there is one, the condition; and
    `networks["discriminator"]`, called with images and the condition, giving logits `(N,)`.
    """

    @classmethod
    def condition_kind(cls, network: Any) -> ConditionKind:
        return "none"

    def sample(self, z: Tensor, condition: Tensor | None) -> Tensor:
        generator = self.player("generator")
        return generator(z) if condition is None else generator(z, condition)

    def judge(self, images: Tensor, condition: Tensor | None) -> Tensor:
        """Logits `(N,)` of the discriminator for images as they are."""
        discriminator = self.player("discriminator")
        return discriminator(images) if condition is None else discriminator(images, condition)

    def critic(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        """From images to logits the way the discriminator sees them, with the batch's conditions."""
        return lambda images: self.judge(self.objective.view(images, batch), self.asked(batch))

    def player(self, part: str) -> nn.Module:
        """The network that is the `generator` or the `discriminator`."""
        return self.networks[part]

    def making(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        """From latents to fakes for the items of a batch, as they are trained on."""
        asked = self.asked(batch)
        return lambda z: self.sample(z, asked)

    def fakes(self, batch: Batch) -> Tensor:
        """Fakes for the items of a batch, from fresh latents."""
        return self.making(batch)(self.latents(batch))

    def logits(self, batch: Batch, fake: Tensor) -> dict[str, Tensor]:
        """Logits of a discriminator step by name, `p_real` and `p_fake` among them."""
        critic = self.critic(batch)
        return {"p_real": critic(batch.images), "p_fake": critic(fake)}

    def adversarial(self, logits: Mapping[str, Tensor]) -> Tensor:
        """What the discriminator minimises, from `logits`: real is true, fake is false."""
        return self.objective.discriminator(logits["p_real"], logits["p_fake"])

    def discriminator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What the discriminator minimises, with the penalties unless they are lazy, and scalars for the log."""
        with torch.no_grad():
            fake = self.fakes(batch)
        logits = self.logits(batch, fake)
        total = self.adversarial(logits) + self.objective.logit_penalty(logits["p_real"], logits["p_fake"])
        if self.objective.has_penalty() and self.objective.penalty_every == 1:
            total = total + self._penalty(batch, fake)
        return total, self.objective.observe(**logits)

    def penalty_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminator's penalties alone, for a phase of their own."""
        with torch.no_grad():
            fake = self.fakes(batch)
        return self._penalty(batch, fake), {}

    def generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What the generator minimises, with its penalties unless they are lazy: fakes pass for real."""
        asked = self.generator_batch(batch)
        p_fake = self.critic(asked)(self.fakes(asked))
        total = self.objective.generator(self.beside(p_fake, batch), p_fake)
        if self.objective.has_generator_penalty() and self.objective.generator_penalty_every == 1:
            total = total + self._generator_penalty(batch)
        return total, {}

    def beside(self, p_fake: Tensor, batch: Batch) -> Tensor:
        """Logits of real images that the loss may compare with fakes, one for each: the batch's, again and again. Where
        the loss compares nothing, what stands there is not read."""
        if not self.objective.loss.needs_real:
            return p_fake.detach()
        with torch.no_grad():
            p_real = self.critic(batch)(batch.images)
        return p_real[torch.arange(len(p_fake), device=p_real.device) % len(p_real)]

    def generator_batch(self, batch: Batch) -> Batch:
        """The conditions that fakes of a generator step are made for, as a batch."""
        return batch.extended(self.objective.generator_batches * len(batch))

    def generator_penalty_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The generator's penalties alone, for a phase of their own."""
        return self._generator_penalty(batch), {}

    def phases(self) -> tuple[Phase, ...]:
        objective = self.objective
        phases = [
            Phase(
                "discriminator",
                ("discriminator",),
                "discriminator",
                self.discriminator_loss,
                objective.discriminator_steps,
            )
        ]
        if objective.has_penalty() and (every := objective.penalty_every) > 1:
            phases.append(Phase("penalty", ("discriminator",), "discriminator", self.penalty_loss, every=every))
        phases.append(Phase("generator", ("generator",), "generator", self.generator_loss))
        if objective.has_generator_penalty() and (every := objective.generator_penalty_every) > 1:
            phases.append(
                Phase("generator_penalty", ("generator",), "generator", self.generator_penalty_loss, every=every)
            )
        return tuple(phases)

    def _penalty(self, batch: Batch, fake: Tensor) -> Tensor:
        network = self.player("discriminator")
        return self.objective.penalty(self.critic(batch), network, batch.images, fake, batch)

    def _generator_penalty(self, batch: Batch) -> Tensor:
        network = self.player("generator")
        return self.objective.generator_penalty(self.making(batch), network, self.latents(batch), batch)


class MatchingAware(TwoPlayers):
    """Two players where the discriminator also sees real images beside conditions that they do not have, as false:
    algorithm 1 of Reed et al. 2016 (arXiv 1605.05396). Without this pair it can ignore the condition.

    The discriminator has `features`, from images, and `match`, from features and conditions to logits, so that the
    features of real images are computed once. (The paper pairs a caption with the image of another; over a batch
    these are the same pairs, told from the image's side.)
    """

    def logits(self, batch: Batch, fake: Tensor) -> dict[str, Tensor]:
        discriminator: Any = self.networks["discriminator"]
        asked = self.asked(batch)
        features = discriminator.features(self.objective.view(batch.images, batch))
        return {
            "p_real": discriminator.match(features, asked),
            "p_wrong": discriminator.match(features, self.wrong(batch)),
            "p_fake": discriminator(self.objective.view(fake, batch), asked),
        }

    def wrong(self, batch: Batch) -> Tensor | None:
        """Conditions that the batch's images do not have, by `condition.kind`."""
        return {"class": batch.wrong_labels, "text": batch.wrong_texts}[self.condition.kind]

    def adversarial(self, logits: Mapping[str, Tensor]) -> Tensor:
        """L = real + (wrong + fake) / 2."""
        loss = self.objective.discriminator
        return (loss(logits["p_real"], logits["p_wrong"]) + loss(logits["p_real"], logits["p_fake"])) / 2


def class_count(spec: DatasetSpec, family: str, otherwise: str) -> int:
    """The number of classes of the data.

    Raises:
        Refused: for fewer than two, naming the family that needs them and what would do otherwise.
    """
    if len(spec.classes) < 2:
        raise Refused(
            f"family: {family} needs two classes or more, and this dataset has {len(spec.classes)}; {otherwise}"
        )
    return len(spec.classes)
