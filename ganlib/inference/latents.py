"""The random input of a generator from seeds: one latent a seed, whatever stands beside it in a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ganlib.card import Latent

LAST_SEED = 2**63 - 1

# Wichura, "Algorithm AS 241: The Percentage Points of the Normal Distribution", Applied Statistics 37 (1988), PPND16:
# rational approximations of degree 7 with a relative error of about 1e-16. Highest power first; each pair is numerator
# and denominator.
_CENTRAL = (  # |p - 1/2| <= 0.425, in 0.425^2 - (p - 1/2)^2
    (2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457,
     13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.387132872796366608),
    (5226.495278852545925, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867,
     5394.1960214247511077, 687.1870074920579083, 42.313330701600911252, 1.0),
)  # fmt: skip
_MIDDLE = (  # r = sqrt(-log(min(p, 1 - p))) <= 5, in r - 1.6
    (7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258,
     3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734),
    (1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459,
     0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1.0),
)  # fmt: skip
_TAIL = (  # r > 5, in r - 5
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 0.0012426609473880784386, 0.026532189526576123093,
     0.29656057182850489123, 1.7848265399172913358, 5.4637849111641143699, 6.6579046435011037772),
    (2.04426310338993978564e-15, 1.4215117583164458887e-7, 1.8463183175100546818e-5, 7.868691311456132591e-4,
     0.0148753612908506148525, 0.13692988092273580531, 0.59983220655588793769, 1.0),
)  # fmt: skip


def latents(seeds: Sequence[int], latent: Latent, truncation: float = 1.0) -> NDArray[np.float32]:
    """The latents of some seeds; each depends on its own seed, the card's distribution and the truncation alone.

    A seed gives uniform numbers u in (0, 1), and z is the inverse distribution function at 1/2 + truncation (u - 1/2):
    a draw from the central `truncation` of the distribution's mass. The same seed therefore moves continuously towards
    the mean as the truncation falls, and 1 is the whole distribution.

    Args:
        seeds: each in 0 to `LAST_SEED`.
        latent: length and distribution.
        truncation: share of the mass that is drawn from, in (0, 1].

    Returns:
        `(len(seeds), latent.size)` float32.
    """
    probability = _probabilities(seeds, latent, truncation)
    z = normal_quantile(probability) if latent.distribution == "normal" else 2.0 * probability - 1.0
    return z.astype(np.float32)


def interpolated(
    seeds: Sequence[int], to: Sequence[int], position: float, latent: Latent, truncation: float = 1.0
) -> NDArray[np.float32]:
    """Latents on the great circles from those of some seeds to those of others.

    A generator has hardly seen latents as short as those on the straight line between two (White, "Sampling Generative
    Networks", arXiv 1609.04468, section 2.1). Uniform latents take the way of the normal ones with the same
    probabilities, so that what lies between is uniform too.

    Args:
        seeds, to: as many of one as of the other, each in 0 to `LAST_SEED`.
        position: 0 gives the latents of `seeds`, 1 those of `to`, to the bit.
        latent, truncation: see `latents`.

    Returns:
        `(len(seeds), latent.size)` float32.
    """
    if position in (0, 1):
        return latents(to if position else seeds, latent, truncation)
    start, end = (normal_quantile(_probabilities(these, latent, truncation)) for these in (seeds, to))
    lengths = np.linalg.norm(start, axis=1, keepdims=True) * np.linalg.norm(end, axis=1, keepdims=True)
    angle = np.arccos(np.clip((start * end).sum(axis=1, keepdims=True) / lengths, -1.0, 1.0))
    straight = np.sin(angle) < 1e-9  # the same direction, or opposite ones, between which no great circle is the one
    sine = np.where(straight, 1.0, np.sin(angle))
    of_start = np.where(straight, 1.0 - position, np.sin((1.0 - position) * angle) / sine)
    of_end = np.where(straight, position, np.sin(position * angle) / sine)
    z = of_start * start + of_end * end
    if latent.distribution == "uniform":
        z = _erf(z / math.sqrt(2.0))  # 2 Phi(z) - 1
    return z.astype(np.float32)


def normal_quantile(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse distribution function of N(0, 1), by Wichura's AS 241 (PPND16).

    Args:
        probability: values in (0, 1), of any shape.

    Returns:
        float64 of the same shape, relative error about 1e-16.
    """
    q = probability - 0.5
    central = np.abs(q) <= 0.425
    r = np.sqrt(-np.log(np.where(q < 0, probability, 1.0 - probability)))
    tail = np.where(r <= 5.0, _ratio(_MIDDLE, r - 1.6), _ratio(_TAIL, r - 5.0))
    return np.where(central, q * _ratio(_CENTRAL, 0.180625 - q * q), np.copysign(tail, q))


def _probabilities(seeds: Sequence[int], latent: Latent, truncation: float) -> NDArray[np.float64]:
    """`(len(seeds), latent.size)` values in (0, 1): each latent's distribution function."""
    return 0.5 + truncation * (_uniform(seeds, latent.size) - 0.5)


def _uniform(seeds: Sequence[int], size: int) -> NDArray[np.float64]:
    """`(len(seeds), size)` numbers in (0, 1) from the raw Philox streams of the seeds, which NumPy will not change:
    the middles of 2^52 equal cells, so neither end is ever reached and no quantile is infinite."""
    bits = np.empty((len(seeds), size), np.uint64)
    stream = np.random.Philox(key=0)
    start = stream.state
    for row, seed in enumerate(seeds):  # its state set anew is `Philox(key=seed)`, at a ninth of the time
        start["state"]["key"][:] = (seed, 0)
        stream.state = start
        bits[row] = stream.random_raw(size)
    return ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _ratio(fraction: tuple[tuple[float, ...], tuple[float, ...]], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """A rational function of `x`."""
    numerator, denominator = fraction
    return np.polyval(numerator, x) / np.polyval(denominator, x)
