"""Adversarial losses of logits: pure functions, chosen by name in params.yaml.

`real` and `fake` are logits of any equal shape; every loss is a mean over them. Notation: sp = softplus,
D(x) = sigmoid(logit), so -log D = sp(-logit) and -log(1 - D) = sp(logit).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import relu, softplus


@dataclass(frozen=True)
class Loss:
    """A pair of losses for one game.

    Attributes:
        discriminator: (real logits, fake logits) to the scalar that the discriminator minimises.
        generator: (real logits, fake logits) to the scalar that the generator minimises.
        needs_real: whether `generator` reads the real logits; where not, any tensor may stand there.
        source: paper and equation.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    source: str
    needs_real: bool = False


def logistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Binary cross entropy of real against fake: Goodfellow et al. 2014 (arXiv 1406.2661), eq. 1."""
    return softplus(-real).mean() + softplus(fake).mean()  # -log D(x) - log(1 - D(G(z)))


def minimax_generator(real: Tensor, fake: Tensor) -> Tensor:
    """The saturating generator loss: Goodfellow et al. 2014 (arXiv 1406.2661), eq. 1."""
    return -softplus(fake).mean()  # log(1 - D(G(z)))


def non_saturating_generator(real: Tensor, fake: Tensor) -> Tensor:
    """The generator maximises log D(G(z)): Goodfellow et al. 2014 (arXiv 1406.2661), section 3."""
    return softplus(-fake).mean()


def least_squares_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Targets 1 and 0: Mao et al. 2017 (arXiv 1611.04076), eq. 9."""
    return ((real - 1).square().mean() + fake.square().mean()) / 2


def least_squares_generator(real: Tensor, fake: Tensor) -> Tensor:
    """Target 1 for fakes: Mao et al. 2017 (arXiv 1611.04076), eq. 9."""
    return (fake - 1).square().mean() / 2


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Margin 1 on both sides: Lim & Ye 2017, Geometric GAN (arXiv 1705.02894), eq. 9."""
    return relu(1 - real).mean() + relu(1 + fake).mean()


def mean_generator(real: Tensor, fake: Tensor) -> Tensor:
    """The generator raises the critic's mean on fakes: Lim & Ye 2017 (arXiv 1705.02894), eq. 10."""
    return -fake.mean()


def relativistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Each real logit above its fake's: Jolicoeur-Martineau 2018 (arXiv 1807.00734), eq. 9 (RSGAN)."""
    return softplus(fake - real).mean()


def relativistic_generator(real: Tensor, fake: Tensor) -> Tensor:
    """Each fake logit above its real's: Jolicoeur-Martineau 2018 (arXiv 1807.00734), eq. 10 (RSGAN)."""
    return softplus(real - fake).mean()


LOSSES: dict[str, Loss] = {
    "minimax": Loss(logistic_discriminator, minimax_generator, "Goodfellow et al. 2014, eq. 1"),
    "non-saturating": Loss(logistic_discriminator, non_saturating_generator, "Goodfellow et al. 2014, section 3"),
    "least-squares": Loss(least_squares_discriminator, least_squares_generator, "Mao et al. 2017, eq. 9"),
    "hinge": Loss(hinge_discriminator, mean_generator, "Lim & Ye 2017, eqs. 9 and 10"),
    "relativistic": Loss(
        relativistic_discriminator, relativistic_generator, "Jolicoeur-Martineau 2018, eqs. 9 and 10", needs_real=True
    ),
}
