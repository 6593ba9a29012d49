"""f-divergences in variational form: Nowozin et al. 2016, f-GAN (arXiv 1606.00709).

D_f(P || Q) = integral of q f(p/q) is the greatest value of E_P[T] - E_Q[f*(T)] (eq. 4), reached where T = f'(p/q).
f is convex on u > 0, f*(t) = sup over u of ut - f(u) is its conjugate, and T = g(v) turns any real v, a logit, into an
argument that f* takes. The functions are those of the paper's tables, and all in `DIVERGENCES` are finite in float32
for |v| <= 50. Near 88 the exponentials overflow that Kullback-Leibler, reverse Kullback-Leibler, Neyman, squared
Hellinger, Jeffrey and alpha in (0, 1) are made of (alpha: exp(v alpha / (1 - alpha)), so nearer for alpha > 1/2); the
others grow as a power of v.

One formula is not that of the tables: below f'(0) (Pearson: t < -2, alpha > 1: t < 1/(1 - alpha)) theirs is reached
at a u < 0, which no ratio of densities is. The supremum over u >= 0 is the constant -f(0) there: the bound is tighter,
and f* never falls, so that no generator is told to make its images less real.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn.functional import relu, softplus

_FLAT = 36.0  # softplus(-v) is exp(-v) to the last bit of float64 from here on

Elementwise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Divergence:
    """One f-divergence; all functions work on each element, of any shape.

    Attributes:
        name: what the literature calls it.
        function: f(u) for u > 0, a ratio of densities.
        activation: g(v), increasing, from any logit into the domain of `conjugate`.
        conjugate: f*(t) for t < `supremum`; past that f* is infinite and the value means nothing.
        conjugate_of_activation: f*(g(v)), without the rounding of going through t.
        threshold: f'(1): g(v) lies above it where P is denser than Q.
        supremum: where the domain of f* ends; it is open downwards.
    """

    name: str
    function: Elementwise
    activation: Elementwise
    conjugate: Elementwise
    conjugate_of_activation: Elementwise
    threshold: float
    supremum: float = math.inf


class _LogOmega(torch.autograd.Function):
    """x with x + exp(x) = s, by Halley's method from above the root; dx/ds = 1 / (1 + exp(x)) = sigmoid(-x)."""

    @staticmethod
    def forward(ctx: FunctionCtx, s: Tensor) -> Tensor:
        x = torch.where(s > 1, s.clamp(min=1).log(), s)  # x + exp(x) - s is log(s) or exp(s) there, so never below 0
        for _ in range(4):  # the error is cubed in each: three reach float64 from anywhere, and one to spare
            e = x.exp()
            residual, slope = x + e - s, 1 + e
            x = x - residual / (slope - residual * e / (2 * slope))
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * torch.sigmoid(-x)


def log_lambert_w_of_exp(s: Tensor) -> Tensor:
    """log W(exp(s)) for any real s, where exp(s) itself may overflow; W is Lambert's, W exp(W) = exp(s).

    Corless et al. 1996, On the Lambert W function, section 4: of W exp(W) = exp(s) the logarithm is log W + W = s.
    """
    return _LogOmega.apply(s)  # type: ignore[no-untyped-call]


def _jeffrey_conjugate(t: Tensor) -> Tensor:
    # f' = log u + 1 - 1/u = t is log W + W = 1 - t for W = 1/u; then W + 1/W + t - 2 = 1/W - log W - 1 = u - 1 + log u
    log_u = -log_lambert_w_of_exp(1 - t)
    return torch.expm1(log_u) + log_u


def _log_softplus_of_minus(v: Tensor) -> Tensor:
    # log log(1 + exp(-v)) is -v for large v, where exp(-v) would underflow
    return softplus(-v.clamp(max=_FLAT)).log() - relu(v - _FLAT)


def weighted_jensen_shannon(weight: float = 0.5) -> Divergence:
    """pi KL(P || M) + (1 - pi) KL(Q || M) with M = pi P + (1 - pi) Q, `weight` = pi.

    Raises:
        ValueError: where `weight` is not inside (0, 1).
    """
    if not 0 < weight < 1:
        raise ValueError(f"weight: found {weight}; expected a number between 0 and 1")
    pi, rest = weight, 1 - weight

    def conjugate_of_activation(v: Tensor) -> Tensor:
        # exp(g(v) / pi) = sigmoid(v)^(1/pi) / pi; for large v 1 - sigmoid^(1/pi) is exp(-v) / pi, and the whole linear
        power = -softplus(-v.clamp(max=_FLAT)) / pi
        return rest * (math.log(rest) - torch.log(-torch.expm1(power)) + relu(v - _FLAT))

    return Divergence(
        name=f"weighted Jensen-Shannon, pi = {weight:g}",
        function=lambda u: pi * torch.xlogy(u, u) - (rest + pi * u) * torch.log(rest + pi * u),
        activation=lambda v: -pi * math.log(pi) - softplus(-v),
        conjugate=lambda t: rest * (math.log(rest) - torch.log1p(-pi * torch.exp(t / pi))),
        conjugate_of_activation=conjugate_of_activation,
        threshold=0.0,
        supremum=-pi * math.log(pi),
    )


def alpha(order: float = 0.5) -> Divergence:
    """The alpha-divergence of `order` alpha: Kullback-Leibler in the limit 1, reverse Kullback-Leibler in the limit 0.

    f(u) = (u^alpha - 1 - alpha (u - 1)) / (alpha (alpha - 1)): half Pearson at 2, half Neyman at -1, twice the squared
    Hellinger distance at 1/2.

    Raises:
        ValueError: where `order` is 0 or 1.
    """
    if order in (0, 1):
        raise ValueError(f"order: found {order:g}; expected a number other than 0 (reverse-kl) and 1 (kl)")
    power = order / (order - 1)

    def conjugate(t: Tensor) -> Tensor:
        return (relu(t * (order - 1) + 1) ** power - 1) / order

    def conjugate_of_activation(v: Tensor) -> Tensor:
        # t (alpha - 1) + 1 = (1 - alpha) softplus(-v) at t = g(v); its power as the exponential of its logarithm
        return torch.expm1(power * (math.log(1 - order) + _log_softplus_of_minus(v))) / order

    below = order < 1
    supremum = 1 / (1 - order)
    return Divergence(
        name=f"alpha-divergence, alpha = {order:g}",
        function=lambda u: (u**order - 1 - order * (u - 1)) / (order * (order - 1)),
        activation=(lambda v: supremum - softplus(-v)) if below else (lambda v: v),
        conjugate=conjugate,
        conjugate_of_activation=conjugate_of_activation if below else conjugate,
        threshold=0.0,
        supremum=supremum if below else math.inf,
    )


KULLBACK_LEIBLER = Divergence(
    name="Kullback-Leibler",
    function=lambda u: torch.xlogy(u, u),
    activation=lambda v: v,
    conjugate=lambda t: torch.exp(t - 1),
    conjugate_of_activation=lambda v: torch.exp(v - 1),
    threshold=1.0,
)
REVERSE_KULLBACK_LEIBLER = Divergence(
    name="reverse Kullback-Leibler",
    function=lambda u: -torch.log(u),
    activation=lambda v: -torch.exp(-v),
    conjugate=lambda t: -1 - torch.log(-t),
    conjugate_of_activation=lambda v: v - 1,
    threshold=-1.0,
    supremum=0.0,
)
PEARSON = Divergence(
    name="Pearson chi-squared",
    function=lambda u: (u - 1).square(),
    activation=lambda v: v,
    conjugate=lambda t: relu(t / 2 + 1).square() - 1,  # t^2 / 4 + t from t = -2 on
    conjugate_of_activation=lambda v: relu(v / 2 + 1).square() - 1,
    threshold=0.0,
)
NEYMAN = Divergence(
    name="Neyman chi-squared",
    function=lambda u: (u - 1).square() / u,
    activation=lambda v: -torch.expm1(-v),
    conjugate=lambda t: 2 - 2 * torch.sqrt(1 - t),
    conjugate_of_activation=lambda v: -2 * torch.expm1(-v / 2),
    threshold=0.0,
    supremum=1.0,
)
SQUARED_HELLINGER = Divergence(
    name="squared Hellinger",
    function=lambda u: (torch.sqrt(u) - 1).square(),
    activation=lambda v: -torch.expm1(-v),
    conjugate=lambda t: t / (1 - t),
    conjugate_of_activation=torch.expm1,
    threshold=0.0,
    supremum=1.0,
)
JEFFREY = Divergence(
    name="Jeffrey",
    function=lambda u: (u - 1) * torch.log(u),
    activation=lambda v: v,
    conjugate=_jeffrey_conjugate,
    conjugate_of_activation=_jeffrey_conjugate,
    threshold=0.0,
)
JENSEN_SHANNON = Divergence(
    name="Jensen-Shannon",
    function=lambda u: torch.xlogy(u, u) - (u + 1) * torch.log((u + 1) / 2),
    activation=lambda v: math.log(2) - softplus(-v),
    conjugate=lambda t: -torch.log(2 - torch.exp(t)),
    conjugate_of_activation=lambda v: softplus(v) - math.log(2),
    threshold=0.0,
    supremum=math.log(2),
)
GAN = Divergence(
    name="GAN",
    function=lambda u: torch.xlogy(u, u) - (u + 1) * torch.log1p(u),
    activation=lambda v: -softplus(-v),
    conjugate=lambda t: -torch.log(-torch.expm1(t)),
    conjugate_of_activation=softplus,
    threshold=-math.log(2),
    supremum=0.0,
)
TOTAL_VARIATION = Divergence(
    name="total variation",
    function=lambda u: (u - 1).abs() / 2,
    activation=lambda v: torch.tanh(v) / 2,
    conjugate=lambda t: t.clamp(min=-0.5),
    conjugate_of_activation=lambda v: torch.tanh(v) / 2,
    threshold=0.0,  # f' jumps from -1/2 to 1/2 there
    supremum=0.5,
)

DIVERGENCES: dict[str, Divergence] = {
    "kl": KULLBACK_LEIBLER,
    "reverse-kl": REVERSE_KULLBACK_LEIBLER,
    "pearson": PEARSON,
    "neyman": NEYMAN,
    "squared-hellinger": SQUARED_HELLINGER,
    "jeffrey": JEFFREY,
    "jensen-shannon": JENSEN_SHANNON,
    "weighted-jensen-shannon": weighted_jensen_shannon(),
    "gan": GAN,
    "alpha": alpha(),
    "total-variation": TOTAL_VARIATION,
}
