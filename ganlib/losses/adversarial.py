"""Adversarial losses of logits: pure functions, chosen by name in params.yaml.

`real` and `fake` are logits of any equal shape; every loss is a mean over them. Notation: sp = softplus,
D(x) = sigmoid(logit), so -log D = sp(-logit) and -log(1 - D) = sp(logit).

The losses `f-...` are those of the f-divergences in `ganlib.losses.divergences`, through `variational`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import relu, softplus

from ganlib.losses.divergences import DIVERGENCES, Divergence


@dataclass(frozen=True)
class Loss:
    """A pair of losses for one game.

    Attributes:
        discriminator: (real logits, fake logits) to the scalar that the discriminator minimises.
        generator: (real logits, fake logits) to the scalar that the generator minimises.
        needs_real: whether `generator` reads the real logits; where not, any tensor may stand there.
        source: paper and equation.
        smoothed: (real logits, fake logits, target in [0, 1]) to the discriminator's loss with that target for real
            in place of 1, one-sided label smoothing: Salimans et al. 2016 (arXiv 1606.03498), section 3.4. At 1 it is
            `discriminator`. None where the loss has no labels.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    source: str
    needs_real: bool = False
    smoothed: Callable[[Tensor, Tensor, float], Tensor] | None = None


def logistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Binary cross entropy of real against fake: Goodfellow et al. 2014 (arXiv 1406.2661), eq. 1."""
    return softplus(-real).mean() + softplus(fake).mean()  # -log D(x) - log(1 - D(G(z)))


def logistic_smoothed(real: Tensor, fake: Tensor, target: float) -> Tensor:
    """Cross entropy to `target` for real and 0 for fake: Salimans et al. 2016 (arXiv 1606.03498), section 3.4."""
    return (target * softplus(-real) + (1 - target) * softplus(real)).mean() + softplus(fake).mean()


def minimax_generator(real: Tensor, fake: Tensor) -> Tensor:
    """The saturating generator loss: Goodfellow et al. 2014 (arXiv 1406.2661), eq. 1."""
    return -softplus(fake).mean()  # log(1 - D(G(z)))


def non_saturating_generator(real: Tensor, fake: Tensor) -> Tensor:
    """The generator maximises log D(G(z)): Goodfellow et al. 2014 (arXiv 1406.2661), section 3."""
    return softplus(-fake).mean()


def least_squares_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Targets 1 and 0: Mao et al. 2017 (arXiv 1611.04076), eq. 9."""
    return ((real - 1).square().mean() + fake.square().mean()) / 2


def least_squares_smoothed(real: Tensor, fake: Tensor, target: float) -> Tensor:
    """Targets `target` and 0: Mao et al. 2017 (arXiv 1611.04076), eq. 2 with b = `target` and a = 0."""
    return ((real - target).square().mean() + fake.square().mean()) / 2


def least_squares_generator(real: Tensor, fake: Tensor) -> Tensor:
    """Target 1 for fakes: Mao et al. 2017 (arXiv 1611.04076), eq. 9."""
    return (fake - 1).square().mean() / 2


def wasserstein_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """The critic parts the means: Arjovsky et al. 2017 (arXiv 1701.07875), eq. 3; a penalty keeps it Lipschitz."""
    return fake.mean() - real.mean()


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Margin 1 on both sides: Lim & Ye 2017, Geometric GAN (arXiv 1705.02894), eq. 9."""
    return relu(1 - real).mean() + relu(1 + fake).mean()


def mean_generator(real: Tensor, fake: Tensor) -> Tensor:
    """The generator raises the critic's mean on fakes: Arjovsky et al. 2017 (arXiv 1701.07875), theorem 3; Lim & Ye
    2017 (arXiv 1705.02894), eq. 10."""
    return -fake.mean()


def relativistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Each real logit above its fake's: Jolicoeur-Martineau 2018 (arXiv 1807.00734), eq. 9 (RSGAN)."""
    return softplus(fake - real).mean()


def relativistic_generator(real: Tensor, fake: Tensor) -> Tensor:
    """Each fake logit above its real's: Jolicoeur-Martineau 2018 (arXiv 1807.00734), eq. 10 (RSGAN)."""
    return softplus(real - fake).mean()


def relativistic_average_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Each logit against the mean of the other side: Jolicoeur-Martineau 2018 (arXiv 1807.00734), section 4.3 (RaSGAN).

    The sum of both sides as in the paper; the author's code halves it, here and in the two losses below.
    """
    return softplus(fake.mean() - real).mean() + softplus(fake - real.mean()).mean()


def relativistic_average_generator(real: Tensor, fake: Tensor) -> Tensor:
    """The same with the sides exchanged: Jolicoeur-Martineau 2018 (arXiv 1807.00734), section 4.3 (RaSGAN)."""
    return relativistic_average_discriminator(fake, real)


def relativistic_average_least_squares_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Real 1 above the fakes' mean, fake 1 below the reals': Jolicoeur-Martineau 2018, section 4.3 (RaLSGAN)."""
    return (real - fake.mean() - 1).square().mean() + (fake - real.mean() + 1).square().mean()


def relativistic_average_least_squares_generator(real: Tensor, fake: Tensor) -> Tensor:
    """The same with the sides exchanged: Jolicoeur-Martineau 2018 (arXiv 1807.00734), section 4.3 (RaLSGAN)."""
    return relativistic_average_least_squares_discriminator(fake, real)


def relativistic_average_hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Margin 1 from the mean of the other side: Jolicoeur-Martineau 2018, section 4.3 (RaHingeGAN)."""
    return relu(1 - (real - fake.mean())).mean() + relu(1 + (fake - real.mean())).mean()


def relativistic_average_hinge_generator(real: Tensor, fake: Tensor) -> Tensor:
    """The same with the sides exchanged: Jolicoeur-Martineau 2018 (arXiv 1807.00734), section 4.3 (RaHingeGAN)."""
    return relativistic_average_hinge_discriminator(fake, real)


def variational(divergence: Divergence, saturating: bool = False) -> Loss:
    """The game of one f-divergence: Nowozin et al. 2016, f-GAN (arXiv 1606.00709); logits are the paper's v.

    The discriminator maximises E_P[g(v)] - E_Q[f*(g(v))], eq. 4. The generator minimises the same where `saturating`:
    -E_Q[f*(g(v))]. Otherwise it maximises E_Q[g(v)], section 3.2, as the non-saturating loss does for the GAN
    divergence; the paper found that useful for the other divergences too, so it is what `LOSSES` holds.
    """

    def discriminator(real: Tensor, fake: Tensor) -> Tensor:
        return divergence.conjugate_of_activation(fake).mean() - divergence.activation(real).mean()

    def generator(real: Tensor, fake: Tensor) -> Tensor:
        return -(divergence.conjugate_of_activation if saturating else divergence.activation)(fake).mean()

    equation = "eq. 4" if saturating else "eq. 4 and section 3.2"
    return Loss(discriminator, generator, f"Nowozin et al. 2016, {equation}: {divergence.name}")


LOSSES: dict[str, Loss] = {
    "minimax": Loss(
        logistic_discriminator, minimax_generator, "Goodfellow et al. 2014, eq. 1", smoothed=logistic_smoothed
    ),
    "non-saturating": Loss(
        logistic_discriminator,
        non_saturating_generator,
        "Goodfellow et al. 2014, section 3",
        smoothed=logistic_smoothed,
    ),
    "least-squares": Loss(
        least_squares_discriminator, least_squares_generator, "Mao et al. 2017, eq. 9", smoothed=least_squares_smoothed
    ),
    "wasserstein": Loss(wasserstein_discriminator, mean_generator, "Arjovsky et al. 2017, eq. 3 and theorem 3"),
    "hinge": Loss(hinge_discriminator, mean_generator, "Lim & Ye 2017, eqs. 9 and 10"),
    "relativistic": Loss(
        relativistic_discriminator, relativistic_generator, "Jolicoeur-Martineau 2018, eqs. 9 and 10", needs_real=True
    ),
    "relativistic-average": Loss(
        relativistic_average_discriminator,
        relativistic_average_generator,
        "Jolicoeur-Martineau 2018, section 4.3 (RaSGAN)",
        needs_real=True,
    ),
    "relativistic-average-least-squares": Loss(
        relativistic_average_least_squares_discriminator,
        relativistic_average_least_squares_generator,
        "Jolicoeur-Martineau 2018, section 4.3 (RaLSGAN)",
        needs_real=True,
    ),
    "relativistic-average-hinge": Loss(
        relativistic_average_hinge_discriminator,
        relativistic_average_hinge_generator,
        "Jolicoeur-Martineau 2018, section 4.3 (RaHingeGAN)",
        needs_real=True,
    ),
    **{f"f-{name}": variational(divergence) for name, divergence in DIVERGENCES.items()},
}
