"""Adversarial losses: values worked out by hand, and gradients that pull the right way."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ganlib.losses.adversarial import LOSSES, Loss, variational
from ganlib.losses.divergences import DIVERGENCES, alpha, weighted_jensen_shannon

E, LOG2 = math.e, math.log(2)
REAL, FAKE = torch.tensor([0.0, 2.0]), torch.tensor([0.0, -1.0])
RELATIVISTIC = [name for name in LOSSES if name.startswith("relativistic")]


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


LOGISTIC = (LOG2 + softplus(-2)) / 2 + (LOG2 + softplus(-1)) / 2
NON_SATURATING = (LOG2 + softplus(1)) / 2
LAMBERT = 1.5571455989976113  # W exp(W) = e^2
MIXTURE = math.log(2 / 3) / 4 + math.log(0.5 / (1 - (1 + E) ** -2)) / 4  # of log[(1/2) / (1 - sigmoid^2)] / 2 at 0, -1


@pytest.mark.parametrize(
    ("name", "discriminator", "generator"),
    [
        ("minimax", LOGISTIC, -(LOG2 + softplus(-1)) / 2),
        ("non-saturating", LOGISTIC, NON_SATURATING),
        ("least-squares", ((1 + 1) / 2 + (0 + 1) / 2) / 2, (1 + 4) / 2 / 2),
        ("wasserstein", -0.5 - 1, 0.5),
        ("hinge", (1 + 0) / 2 + (1 + 0) / 2, 0.5),
        ("relativistic", (LOG2 + softplus(-3)) / 2, (LOG2 + softplus(3)) / 2),
        # the means are 1 and -1/2: real against fakes 1/2 and 5/2, fake against reals -1 and -2
        (
            "relativistic-average",
            (softplus(-0.5) + softplus(-2.5) + softplus(-1) + softplus(-2)) / 2,
            (softplus(0.5) + softplus(2.5) + softplus(1) + softplus(2)) / 2,
        ),
        ("relativistic-average-least-squares", (0.25 + 2.25 + 0 + 1) / 2, (4 + 9 + 2.25 + 12.25) / 2),
        ("relativistic-average-hinge", (0.5 + 0 + 0 + 0) / 2, (2 + 3 + 1.5 + 3.5) / 2),
        ("f-kl", (1 / E + 1 / E**2) / 2 - 1, 0.5),
        ("f-reverse-kl", (-1 - 2) / 2 + (1 + E**-2) / 2, (1 + E) / 2),
        ("f-pearson", (0 + 1 / 4 - 1) / 2 - 1, 0.5),
        ("f-neyman", (0 + 2 - 2 * E**0.5) / 2 - (0 + 1 - E**-2) / 2, (0 + E - 1) / 2),
        ("f-squared-hellinger", (0 + 1 / E - 1) / 2 - (0 + 1 - E**-2) / 2, (0 + E - 1) / 2),
        ("f-jeffrey", (0 + LAMBERT + 1 / LAMBERT - 1 - 2) / 2 - 1, 0.5),
        ("f-jensen-shannon", LOGISTIC - 2 * LOG2, NON_SATURATING - LOG2),
        (
            "f-weighted-jensen-shannon",
            MIXTURE - LOG2 / 2 + (LOG2 + softplus(-2)) / 2,
            NON_SATURATING - LOG2 / 2,
        ),
        ("f-gan", LOGISTIC, NON_SATURATING),
        ("f-alpha", 2 / LOG2 + 2 / softplus(1) - 2 - 2 + (LOG2 + softplus(-2)) / 2, NON_SATURATING - 2),
        ("f-total-variation", -(math.tanh(1) + math.tanh(2)) / 4, math.tanh(1) / 4),
    ],
)
def test_values_by_hand(name: str, discriminator: float, generator: float) -> None:
    loss = LOSSES[name]
    assert loss.discriminator(REAL, FAKE).item() == pytest.approx(discriminator, rel=1e-6)
    assert loss.generator(REAL, FAKE).item() == pytest.approx(generator, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "generator"),
    [
        ("kl", -(1 / E + 1 / E**2) / 2),
        ("reverse-kl", 1.5),
        ("pearson", 0.375),
        ("neyman", E**0.5 - 1),
        ("squared-hellinger", (1 - 1 / E) / 2),
        ("jeffrey", -(LAMBERT + 1 / LAMBERT - 3) / 2),
        ("jensen-shannon", LOG2 - (LOG2 + softplus(-1)) / 2),
        ("weighted-jensen-shannon", -MIXTURE),
        ("gan", -(LOG2 + softplus(-1)) / 2),
        ("alpha", 2 - 2 / LOG2 - 2 / softplus(1)),
        ("total-variation", math.tanh(1) / 4),
    ],
)
def test_saturating_generators_by_hand(name: str, generator: float) -> None:
    loss = variational(DIVERGENCES[name], saturating=True)
    assert loss.generator(REAL, FAKE).item() == pytest.approx(generator, rel=1e-6)
    assert torch.equal(loss.discriminator(REAL, FAKE), LOSSES[f"f-{name}"].discriminator(REAL, FAKE))


def test_every_divergence_is_a_loss() -> None:
    assert {name for name in LOSSES if name.startswith("f-")} == {f"f-{name}" for name in DIVERGENCES}


def both_forms() -> dict[str, Loss]:
    more = {"alpha 2": alpha(2), "alpha -1": alpha(-1), "weighted 0.2": weighted_jensen_shannon(0.2)}
    return LOSSES | {f"saturating {name}": variational(of, True) for name, of in (DIVERGENCES | more).items()}


@pytest.mark.parametrize("name", both_forms())
def test_gradients_pull_apart_and_together(name: str) -> None:
    loss = both_forms()[name]
    real, fake = torch.tensor([0.3, -0.2], requires_grad=True), torch.tensor([0.1, 0.4], requires_grad=True)
    to_real, to_fake = torch.autograd.grad(loss.discriminator(real, fake), (real, fake))
    assert (to_real < 0).all()  # the discriminator raises real logits
    assert (to_fake > 0).all()  # and lowers fake ones
    (to_fake,) = torch.autograd.grad(loss.generator(real, fake), fake)
    assert (to_fake < 0).all()  # the generator raises them


@pytest.mark.parametrize("name", [name for name in both_forms() if "least-squares" not in name])
def test_no_logit_however_far_is_pulled_the_wrong_way(name: str) -> None:
    """Least squares alone has targets, which a logit can be beyond."""
    loss = both_forms()[name]
    real = torch.linspace(-40, 40, 81, requires_grad=True)
    fake = real.detach().flip(0).clone().requires_grad_()
    to_real, to_fake = torch.autograd.grad(loss.discriminator(real, fake), (real, fake))
    assert (to_real <= 0).all()
    assert (to_fake >= 0).all()
    (to_fake,) = torch.autograd.grad(loss.generator(real.detach(), fake), fake)
    assert (to_fake <= 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_needs_real_says_whether_the_generator_reads_the_real_logits(name: str) -> None:
    moved = LOSSES[name].generator(REAL + 1, FAKE) != LOSSES[name].generator(REAL, FAKE)
    assert bool(moved) is LOSSES[name].needs_real
    assert LOSSES[name].needs_real is (name in RELATIVISTIC)


@pytest.mark.parametrize("name", LOSSES)
def test_a_map_of_logits_counts_as_its_elements(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, 3, 1, 4, 5, generator=generator)
    for function in (LOSSES[name].discriminator, LOSSES[name].generator):
        assert function(real, fake).shape == ()
        torch.testing.assert_close(function(real, fake), function(real.flatten(), fake.flatten()))


@pytest.mark.parametrize("name", RELATIVISTIC)
def test_relativistic_losses_ignore_the_common_level(name: str) -> None:
    for function in (LOSSES[name].discriminator, LOSSES[name].generator):
        torch.testing.assert_close(function(REAL + 3, FAKE + 3), function(REAL, FAKE))


@pytest.mark.parametrize("shape", [(7,), (4, 1), (3, 1, 4, 4)])
def test_relativistic_average_losses_in_numpy(shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(1)
    real, fake = generator.normal(1, 2, shape), generator.normal(-0.5, 1.5, shape)

    def expected(kind: str, above: np.ndarray, below: np.ndarray) -> float:
        terms = []
        for value in above.flat:
            x = value - sum(below.flat) / below.size
            terms.append(
                {"": -math.log(1 / (1 + math.exp(-x))), "-least-squares": (x - 1) ** 2, "-hinge": max(0, 1 - x)}
            )
        for value in below.flat:
            x = value - sum(above.flat) / above.size
            wrong = 1 - 1 / (1 + math.exp(-x))
            terms.append({"": -math.log(wrong), "-least-squares": (x + 1) ** 2, "-hinge": max(0, 1 + x)})
        return 2 * sum(term[kind] for term in terms) / len(terms)

    for kind in ("", "-least-squares", "-hinge"):
        loss = LOSSES[f"relativistic-average{kind}"]
        logits = torch.from_numpy(real), torch.from_numpy(fake)
        assert loss.discriminator(*logits).item() == pytest.approx(expected(kind, real, fake), rel=1e-10)
        assert loss.generator(*logits).item() == pytest.approx(expected(kind, fake, real), rel=1e-10)


def test_the_gan_divergence_is_the_logistic_game() -> None:
    generator = torch.Generator().manual_seed(0)
    real, fake = 10 * torch.randn(2, 500, generator=generator)
    trick, saturating = LOSSES["f-gan"], variational(DIVERGENCES["gan"], saturating=True)
    logistic = LOSSES["non-saturating"]
    assert torch.equal(trick.discriminator(real, fake), logistic.discriminator(real, fake))
    assert torch.equal(trick.generator(real, fake), logistic.generator(real, fake))
    assert torch.equal(saturating.generator(real, fake), LOSSES["minimax"].generator(real, fake))


def test_the_jensen_shannon_divergence_is_the_logistic_game_up_to_constants() -> None:
    real, fake = torch.linspace(-9, 9, 60, dtype=torch.float64).view(2, 30)
    trick, saturating = LOSSES["f-jensen-shannon"], variational(DIVERGENCES["jensen-shannon"], saturating=True)
    for found, of, constant in (
        (trick.discriminator, LOSSES["minimax"].discriminator, -2 * LOG2),
        (trick.generator, LOSSES["non-saturating"].generator, -LOG2),
        (saturating.generator, LOSSES["minimax"].generator, LOG2),
    ):
        assert (found(real, fake) - of(real, fake)).item() == pytest.approx(constant, abs=1e-12)


@pytest.mark.parametrize("name", both_forms())
def test_large_logits_in_float32(name: str) -> None:
    """All are finite at 50 on the right and on the wrong side, with their gradients; overflow begins near 88."""
    loss = both_forms()[name]
    real = torch.tensor([50.0, -50.0, 50.0, -50.0], requires_grad=True)
    fake = torch.tensor([50.0, -50.0, -50.0, 50.0], requires_grad=True)
    for function in (loss.discriminator, loss.generator):
        total = function(real, fake)
        gradients = torch.autograd.grad(total, (real, fake), allow_unused=True)
        assert torch.isfinite(total)
        assert all(torch.isfinite(gradient).all() for gradient in gradients if gradient is not None)


SMOOTHED = {name: loss.smoothed for name, loss in LOSSES.items() if loss.smoothed is not None}


def test_smoothing_is_for_losses_with_labels() -> None:
    assert set(SMOOTHED) == {"minimax", "non-saturating", "least-squares"}


@pytest.mark.parametrize("name", SMOOTHED)
def test_smoothing_moves_the_target_of_real_alone(name: str) -> None:
    smoothed = SMOOTHED[name]
    assert torch.equal(smoothed(REAL, FAKE, 1.0), LOSSES[name].discriminator(REAL, FAKE))
    expected = {
        "least-squares": ((0.81 + 1.21) / 2 + (0 + 1) / 2) / 2,
        "minimax": (LOG2 + 0.9 * softplus(-2) + 0.1 * softplus(2)) / 2 + (LOG2 + softplus(-1)) / 2,
    }
    value = expected["least-squares" if name == "least-squares" else "minimax"]
    assert smoothed(REAL, FAKE, 0.9).item() == pytest.approx(value, rel=1e-6)
    # the best output for real is the target itself, and the gradient for fake is that without smoothing
    best = torch.tensor([0.9 if name == "least-squares" else math.log(0.9 / 0.1)], requires_grad=True)
    fake = torch.tensor([0.7], requires_grad=True)
    to_real, to_fake = torch.autograd.grad(smoothed(best, fake, 0.9), (best, fake))
    assert to_real.item() == pytest.approx(0, abs=1e-6)
    assert torch.equal(to_fake, torch.autograd.grad(LOSSES[name].discriminator(best, fake), fake)[0])


@pytest.mark.parametrize("name", LOSSES)
def test_the_source_names_a_paper_and_a_place(name: str) -> None:
    assert any(f"{year}, {place}" in LOSSES[name].source for year in range(2014, 2019) for place in ("eq", "section"))
