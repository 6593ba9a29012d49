"""What params.yaml chooses for every family alike: the loss, the penalties and how the discriminator sees images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from ganlib.data.store import Batch
from ganlib.losses.adversarial import Loss
from ganlib.losses.penalties import (
    GENERATOR_PENALTIES,
    LOGIT_PENALTIES,
    PENALTIES,
    WEIGHT_PENALTIES,
    Critic,
    Generate,
    moved_anchors,
)

Augmentation = Callable[[Tensor, Tensor | float, Callable[..., Tensor]], Tensor]


@dataclass(frozen=True)
class Repeats:
    """How often a phase is run in a training step.

    Attributes:
        usual: times in most steps.
        boosted: times in the first `warm_up` steps and in every `every`-th step (the critic of Arjovsky et al. 2017).
        warm_up: steps.
        every: interval in steps; 0 for never.
    """

    usual: int = 1
    boosted: int = 0
    warm_up: int = 0
    every: int = 0

    def at(self, step: int) -> int:
        """Times in step `step`, from 0 on."""
        return self.boosted if step < self.warm_up or (self.every and step % self.every == 0) else self.usual

    def before(self, step: int) -> int:
        """Times in all steps before `step`."""
        boosts = min(step, self.warm_up)
        if self.every and step > self.warm_up:
            boosts += -(-step // self.every) - -(-self.warm_up // self.every)  # multiples of `every` in [warm_up, step)
        return step * self.usual + boosts * (self.boosted - self.usual)


ONCE = Repeats()


class Adaptive(Protocol):
    """Moves the augmentation's p by the signs of real logits (see `ganlib.training.augment`)."""

    def start(self) -> dict[str, Tensor]: ...

    def observe(self, state: Mapping[str, Tensor], signs: Tensor) -> None: ...

    def after_step(self, state: Mapping[str, Tensor], step: int, images: int) -> None: ...


@dataclass
class Objective:
    """The loss and all that is added to it.

    Attributes:
        loss: the adversarial loss, functions of the logits (see `ganlib.losses.adversarial`).
        values: numbers that may follow a schedule, by their keys in params.yaml: `label_smoothing`, `instance_noise`
            (standard deviation), `augment.p`, `penalties.NAME` and `generator_penalties.NAME` (weights). The engine
            sets them before each step.
        penalty_every: 1, or the interval of a phase of their own for the discriminator's penalties.
        generator_penalty_every: the same for the generator's.
        discriminator_steps: discriminator steps, each with a real batch of its own, for each generator step.
        generator_batches: fakes of a generator step, in batches.
        augmentation: what the discriminator sees images through, or None.
        adaptive: moves the augmentation's p, which is `state["p"]` then, or None where p is a value.
        state: tensors that go with the run: means that penalties follow, the adaptive p.
        gather: the logits of all processes from those of this one, with gradients.
    """

    loss: Loss
    values: dict[str, float] = field(default_factory=dict)
    penalty_every: int = 1
    generator_penalty_every: int = 1
    discriminator_steps: Repeats = ONCE
    generator_batches: int = 1
    augmentation: Augmentation | None = None
    adaptive: Adaptive | None = None
    state: dict[str, Tensor] = field(default_factory=dict)
    gather: Callable[[Tensor], Tensor] = field(default=lambda logits: logits)

    def __post_init__(self) -> None:
        chosen = {key.partition(".")[2] for key in self.values if key.partition(".")[0].endswith("penalties")}
        if "lecam" in chosen:
            self.state["lecam"] = torch.zeros(2)
        if "path-length" in chosen:
            self.state["path-length"] = torch.zeros(())
        if self.adaptive is not None:
            self.state |= self.adaptive.start()

    def view(self, images: Tensor, batch: Batch) -> Tensor:
        """Images as the discriminator sees them: with instance noise, then augmented; gradients pass through."""
        if noise := self.values.get("instance_noise", 0.0):
            images = images + noise * batch.normal(*images.shape[1:])
        if self.augmentation is None:
            return images
        p = self.state["p"] if self.adaptive is not None else self.values["augment.p"]
        return self.augmentation(images, p, batch.uniform)

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """What the discriminator minimises, from logits."""
        real, fake = self.gather(real), self.gather(fake)
        smoothing = self.values.get("label_smoothing", 0.0)
        if smoothing and self.loss.smoothed is not None:
            return self.loss.smoothed(real, fake, 1 - smoothing)
        return self.loss.discriminator(real, fake)

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        """What the generator minimises, from logits."""
        return self.loss.generator(self.gather(real), self.gather(fake))

    def logit_penalty(self, real: Tensor, fake: Tensor) -> Tensor | float:
        """The weighted sum of the penalties on logits; the means that they follow move on."""
        real, fake = self.gather(real), self.gather(fake)
        total: Tensor | float = 0.0
        for name, penalty in LOGIT_PENALTIES.items():
            if (weight := self.values.get(f"penalties.{name}")) is not None:
                total = total + weight * penalty(real, fake, self.state[name])
                self.state[name].copy_(moved_anchors(self.state[name], real, fake))
        return total

    def has_penalty(self) -> bool:
        """Whether the discriminator has penalties that need a pass of their own."""
        return any(f"penalties.{name}" in self.values for name in (*PENALTIES, *WEIGHT_PENALTIES))

    def has_generator_penalty(self) -> bool:
        """Whether the generator has penalties."""
        return any(f"generator_penalties.{name}" in self.values for name in (*GENERATOR_PENALTIES, *WEIGHT_PENALTIES))

    def penalty(self, critic: Critic, network: nn.Module, real: Tensor, fake: Tensor, batch: Batch) -> Tensor:
        """The weighted sum of the discriminator's penalties, times their interval, so that lazy ones weigh as much.

        Args:
            critic: images to logits as the discriminator sees them, conditions bound.
            network: the discriminator.
            real: images `(N, C, H, W)`.
            fake: images of the same shape.
            batch: of the random numbers.
        """
        terms = [
            weight * penalty(critic, real, fake, batch.uniform)
            for name, penalty in PENALTIES.items()
            if (weight := self.values.get(f"penalties.{name}")) is not None
        ] + self._on_weights("penalties", network)
        return torch.stack(terms).sum() * self.penalty_every

    def generator_penalty(self, generate: Generate, network: nn.Module, z: Tensor, batch: Batch) -> Tensor:
        """The weighted sum of the generator's penalties, times their interval.

        Args:
            generate: latents to images, conditions bound.
            network: the generator.
            z: latents `(N, d)`.
            batch: of the random numbers.
        """
        terms = self._on_weights("generator_penalties", network)
        for name, penalty in GENERATOR_PENALTIES.items():
            if (weight := self.values.get(f"generator_penalties.{name}")) is not None:
                term, mean = penalty(generate, z, self.state[name], batch.normal)
                self.state[name].copy_(self.gather(mean.view(1)).mean())
                terms.append(weight * term)
        return torch.stack(terms).sum() * self.generator_penalty_every

    def after_step(self, step: int, images: int) -> None:
        """Called after each training step: the adaptive augmentation moves on.

        Args:
            step: steps done.
            images: of a step.
        """
        if self.adaptive is not None:
            self.adaptive.after_step(self.state, step, images)

    def _on_weights(self, section: str, network: nn.Module) -> list[Tensor]:
        return [
            weight * penalty(network)
            for name, penalty in WEIGHT_PENALTIES.items()
            if (weight := self.values.get(f"{section}.{name}")) is not None
        ]

    def observe(self, p_real: Tensor, p_fake: Tensor, **others: Tensor) -> dict[str, Tensor]:
        """Scalars for the log from logits by name: mean probabilities and r_t, the mean sign of real logits (Karras et
        al. 2020, arXiv 2006.06676, eq. 1), which the adaptive augmentation follows.

        Losses that compare real with fake leave the common level of all logits free: theirs are taken from the middle
        between the means of real and fake.
        """
        logits = {"p_real": p_real, **others, "p_fake": p_fake}
        logits = {name: self.gather(value.detach().float()) for name, value in logits.items()}
        middle = (logits["p_real"].mean() + logits["p_fake"].mean()) / 2 if self.loss.needs_real else 0.0
        signs = (logits["p_real"] - middle).sign()
        if self.adaptive is not None:
            self.adaptive.observe(self.state, signs)
        probabilities = {name: (value - middle).sigmoid().mean() for name, value in logits.items()}
        return probabilities | {"r_t": signs.mean()}


def penalty_names() -> Mapping[str, tuple[str, ...]]:
    """What `penalties` and `generator_penalties` of params.yaml may name."""
    return {
        "penalties": (*PENALTIES, *LOGIT_PENALTIES, *WEIGHT_PENALTIES),
        "generator_penalties": (*GENERATOR_PENALTIES, *WEIGHT_PENALTIES),
    }
