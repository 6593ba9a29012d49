"""f-divergences: conjugates against a numerical supremum, and the variational bound between two Gaussians."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.special import lambertw, wrightomega
from scipy.stats import norm
from torch import Tensor

from ganlib.losses.divergences import (
    DIVERGENCES,
    JENSEN_SHANNON,
    NEYMAN,
    PEARSON,
    SQUARED_HELLINGER,
    Divergence,
    alpha,
    log_lambert_w_of_exp,
    weighted_jensen_shannon,
)

LOG2 = math.log(2)
ALL = DIVERGENCES | {
    "alpha 3/2": alpha(1.5),
    "alpha 2": alpha(2),
    "alpha -1": alpha(-1),
    "alpha 0.9": alpha(0.9),
    "weighted-jensen-shannon 0.2": weighted_jensen_shannon(0.2),
    "weighted-jensen-shannon 0.9": weighted_jensen_shannon(0.9),
}

# Arguments inside the domain of each conjugate, up to close to its end; where there is a constant part, on it too.
ARGUMENTS = {
    "kl": (-5.0, 5.0),
    "reverse-kl": (-20.0, -1e-3),
    "pearson": (-6.0, 20.0),
    "neyman": (-20.0, 0.999),
    "squared-hellinger": (-20.0, 0.99),
    "jeffrey": (-20.0, 6.0),
    "jensen-shannon": (-6.0, 0.68),
    "weighted-jensen-shannon": (-3.0, 0.34),
    "weighted-jensen-shannon 0.2": (-2.0, 0.32),
    "weighted-jensen-shannon 0.9": (-5.0, 0.0948),
    "gan": (-8.0, -0.01),
    "alpha": (-20.0, 1.99),
    "alpha 3/2": (-5.0, 10.0),
    "alpha 2": (-4.0, 10.0),
    "alpha -1": (-20.0, 0.4999),
    "alpha 0.9": (-20.0, 8.0),
    "total-variation": (-2.0, 0.4999),
}


def double(values: object) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def slope(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    at = at.clone().requires_grad_()
    return torch.autograd.grad(function(at).sum(), at)[0]


@pytest.mark.parametrize("name", ALL)
def test_the_conjugate_is_the_supremum_of_ut_minus_f(name: str) -> None:
    divergence = ALL[name]
    arguments = double(np.linspace(*ARGUMENTS[name], 41))
    assert arguments.max() < divergence.supremum
    for t, found in zip(arguments.tolist(), divergence.conjugate(arguments).tolist(), strict=True):

        def below(log_u: float, t: float = t) -> float:
            u = math.exp(log_u)
            return divergence.function(double(u)).item() - u * t

        supremum = -minimize_scalar(below, bounds=(-40, 20), method="bounded", options={"xatol": 1e-9}).fun
        assert found == pytest.approx(supremum, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("name", ALL)
def test_the_activation_fills_the_domain_and_composes_with_the_conjugate(name: str) -> None:
    divergence = ALL[name]
    v = double(np.linspace(-8, 8, 161))
    t = divergence.activation(v)
    assert (t.diff() > 0).all()
    assert t.max() < divergence.supremum
    if divergence.supremum < math.inf:
        assert divergence.activation(double(30.0)).item() == pytest.approx(divergence.supremum, abs=1e-10)
    torch.testing.assert_close(divergence.conjugate_of_activation(v), divergence.conjugate(t), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_gradients_against_finite_differences(name: str) -> None:
    divergence = ALL[name]
    v = double([-3.1, -1.2, 0.0, 0.4, 2.7]).requires_grad_()
    for function in (divergence.activation, divergence.conjugate_of_activation):
        assert torch.autograd.gradcheck(function, (v,))
        assert torch.autograd.gradgradcheck(function, (v,))


@pytest.mark.parametrize("name", ALL)
def test_the_threshold_is_the_slope_of_f_at_equal_densities(name: str) -> None:
    divergence = ALL[name]
    # at the kink of total variation torch takes the middle of the slopes, as the threshold does
    assert slope(divergence.function, double(1.0)).item() == pytest.approx(divergence.threshold, abs=1e-12)


def density(x: float, mean: float) -> float:
    return math.exp(-((x - mean) ** 2) / 2) / math.sqrt(2 * math.pi)


def mixture_divergence(weight: float) -> float:
    """pi KL(P || M) + (1 - pi) KL(Q || M) by adaptive quadrature of its definition."""

    def integrand(x: float) -> float:
        p, q = density(x, 0), density(x, 1)
        m = weight * p + (1 - weight) * q
        return weight * p * math.log(p / m) + (1 - weight) * q * math.log(q / m)

    return quad(integrand, -12, 13, epsabs=1e-12)[0]


# P = N(0, 1), Q = N(1, 1): the integral of p^a q^(1 - a) is exp(-a (1 - a) / 2), which gives all but the mixtures.
KNOWN = {
    "kl": 1 / 2,
    "reverse-kl": 1 / 2,
    "pearson": math.e - 1,
    "neyman": math.e - 1,
    "squared-hellinger": 2 - 2 * math.exp(-1 / 8),
    "jeffrey": 1.0,
    "jensen-shannon": 2 * mixture_divergence(0.5),
    "weighted-jensen-shannon": mixture_divergence(0.5),
    "weighted-jensen-shannon 0.2": mixture_divergence(0.2),
    "weighted-jensen-shannon 0.9": mixture_divergence(0.9),
    "gan": 2 * mixture_divergence(0.5) - 2 * LOG2,
    "alpha": 4 - 4 * math.exp(-1 / 8),
    "alpha 3/2": (math.exp(3 / 8) - 1) / 0.75,
    "alpha 2": (math.e - 1) / 2,
    "alpha -1": (math.e - 1) / 2,
    "alpha 0.9": (1 - math.exp(-0.045)) / 0.09,
    "total-variation": 2 * norm.cdf(0.5) - 1,
}

X = double(np.linspace(-12, 13, 20001))
P, Q = double(norm.pdf(X.numpy())), double(norm.pdf(X.numpy(), loc=1))


def best_logits(divergence: Divergence, x: Tensor) -> Tensor:
    """v with g(v) = f'(p/q) at `x`, by bisection of the increasing g."""
    wanted = slope(divergence.function, torch.exp(0.5 - x))
    low, high = torch.full_like(x, -1e12), torch.full_like(x, 1e12)
    for _ in range(100):
        middle = (low + high) / 2
        small = divergence.activation(middle) < wanted
        low, high = torch.where(small, middle, low), torch.where(small, high, middle)
    return (low + high) / 2


@pytest.mark.parametrize("name", ALL)
def test_the_bound_is_the_divergence_at_the_best_logits_and_less_elsewhere(name: str) -> None:
    divergence = ALL[name]

    def bound(v: Tensor) -> float:
        integrand = P * divergence.activation(v) - Q * divergence.conjugate_of_activation(v)
        return torch.trapezoid(integrand, X).item()

    integral = torch.trapezoid(Q * divergence.function(P / Q), X).item()
    assert integral == pytest.approx(KNOWN[name], abs=1e-7)
    assert bound(best_logits(divergence, X)) == pytest.approx(integral, abs=1e-7)
    for elsewhere in (X + 0.3, X - 0.3, 1 - X, torch.full_like(X, 0.5)):
        assert bound(best_logits(divergence, elsewhere)) < integral - 1e-4


def test_members_of_a_family_agree_where_they_meet() -> None:
    u = double(np.geomspace(0.01, 100, 50))
    torch.testing.assert_close(alpha(2).function(u), PEARSON.function(u) / 2)
    torch.testing.assert_close(alpha(-1).function(u), NEYMAN.function(u) / 2)
    torch.testing.assert_close(alpha(0.5).function(u), 2 * SQUARED_HELLINGER.function(u))
    torch.testing.assert_close(weighted_jensen_shannon(0.5).function(u), JENSEN_SHANNON.function(u) / 2)
    for order, name in ((1 - 1e-6, "kl"), (1e-6, "reverse-kl")):
        limit = DIVERGENCES[name].function(u) - DIVERGENCES[name].threshold * (u - 1)
        torch.testing.assert_close(alpha(order).function(u), limit, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weight", [0.0, 1.0, -0.5, math.nan])
def test_a_mixture_needs_a_weight_inside_the_unit_interval(weight: float) -> None:
    with pytest.raises(ValueError, match=r"^weight: found .*; expected a number between 0 and 1$"):
        weighted_jensen_shannon(weight)


@pytest.mark.parametrize("order", [0.0, 1.0])
def test_alpha_has_no_value_at_its_limits(order: float) -> None:
    with pytest.raises(ValueError, match=rf"^order: found {order:g}; expected a number other than 0 .* and 1 "):
        alpha(order)


def test_the_logarithm_of_lambert_w_against_scipy() -> None:
    moderate = np.concatenate([np.linspace(-700, 700, 2001), np.linspace(-3, 5, 2001)])
    found = log_lambert_w_of_exp(double(moderate)).exp().numpy()
    np.testing.assert_allclose(found, lambertw(np.exp(moderate)).real, rtol=1e-13)
    large = np.geomspace(1e3, 1e300, 100)  # exp of it overflows
    np.testing.assert_allclose(log_lambert_w_of_exp(double(large)).exp().numpy(), wrightomega(large), rtol=2e-13)
    small = -np.geomspace(1e3, 1e300, 100)  # exp of it is 0, and the logarithm is the argument
    np.testing.assert_array_equal(log_lambert_w_of_exp(double(small)).numpy(), small)


def test_the_logarithm_of_lambert_w_in_float32_and_its_derivatives() -> None:
    s = torch.tensor([-1e30, -100.0, -1.0, 0.0, 1.0, 2.0, 100.0, 1e30])
    exact = np.array([-1e30, -100.0, *np.log(wrightomega([-1.0, 0.0, 1.0, 2.0, 100.0])), 30 * math.log(10)])
    np.testing.assert_allclose(log_lambert_w_of_exp(s).numpy(), exact, rtol=1e-6, atol=1e-7)
    inside = double([-30.0, -2.0, 0.5, 1.0, 1.5, 40.0]).requires_grad_()
    assert torch.autograd.gradcheck(log_lambert_w_of_exp, (inside,))
    assert torch.autograd.gradgradcheck(log_lambert_w_of_exp, (inside,))
    x = log_lambert_w_of_exp(inside)
    (gradient,) = torch.autograd.grad(x.sum(), inside)
    torch.testing.assert_close(gradient, 1 / (1 + x.exp()), rtol=1e-12, atol=0)


EXPONENTIAL = {"kl", "reverse-kl", "neyman", "squared-hellinger", "jeffrey", "alpha", "alpha 0.9"}


@pytest.mark.parametrize("name", ALL)
def test_float32_is_finite_as_far_as_the_mathematics_is(name: str) -> None:
    divergence = ALL[name]

    def values(v: Tensor) -> Tensor:
        v = v.clone().requires_grad_()
        outputs = (divergence.activation(v), divergence.conjugate_of_activation(v))
        return torch.cat([*outputs, *(torch.autograd.grad(output.sum(), v)[0] for output in outputs)])

    if name != "alpha 0.9":  # u^alpha is exp(9 v): it overflows from v = 9.8 on
        v = torch.tensor([-50.0, -20.0, 0.0, 20.0, 50.0])
        assert torch.isfinite(values(v)).all()
        exact = values(v.double())
        torch.testing.assert_close(values(v).double(), exact, rtol=2e-5, atol=1e-5)
    assert bool(torch.isfinite(values(torch.tensor([-120.0, 120.0]))).all()) is (name not in EXPONENTIAL)


LARGE = (20.0, 35.99, 36.0, 36.01, 60.0, 300.0)  # on both sides of where the formulas change to their linear part


@pytest.mark.parametrize("pi", [0.2, 0.5, 0.9])
def test_a_mixture_at_large_logits_against_scalar_mathematics(pi: float) -> None:
    def exact(v: float) -> float:
        return (1 - pi) * (math.log(1 - pi) - math.log(-math.expm1(-math.log1p(math.exp(-v)) / pi)))

    found = weighted_jensen_shannon(pi).conjugate_of_activation
    np.testing.assert_allclose(found(double(LARGE)), [exact(v) for v in LARGE], rtol=1e-13)
    torch.testing.assert_close(slope(found, double(LARGE)), torch.full((6,), 1 - pi).double(), rtol=1e-7, atol=0)


@pytest.mark.parametrize("order", [-1.0, 0.5, 0.6])
def test_alpha_at_large_logits_against_scalar_mathematics(order: float) -> None:
    def exact(v: float) -> float:
        return (((1 - order) * math.log1p(math.exp(-v))) ** (order / (order - 1)) - 1) / order

    found = alpha(order).conjugate_of_activation
    np.testing.assert_allclose(found(double(LARGE)), [exact(v) for v in LARGE], rtol=1e-12)
    grows = (
        order / (1 - order) * (found(double(LARGE)) * order + 1) / order
    )  # d/dv of exp(v alpha / (1 - alpha)) / alpha
    torch.testing.assert_close(slope(found, double(LARGE)), grows, rtol=1e-7, atol=1e-14)
