"""Kernel inception distance between two sets of feature vectors, in float64 (Binkowski et al. 2018, section 4).

It is the squared maximum mean discrepancy with the cubic kernel k(a, b) = (a.b / d + 1)^3, in the unbiased form of
Gretton et al. 2012, equation 3. Unbiased means that equal distributions give values around 0 on both sides: a negative
one is never clipped.
"""

from __future__ import annotations

import numpy as np

from ganlib.problems import Refused

_BLOCK = 2048  # rows of a kernel matrix held at once: 2048 x 50,000 float64 are 0.8 GB


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased squared MMD between features `(n, d)` and `(m, d)`.

    Raises:
        Refused: for fewer than 2 samples on a side.
    """
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise Refused(
            f"kernel distance: found {n} and {m} feature vectors; the unbiased estimate needs at least 2 each"
        )
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    within_x = (_kernel_sum(x, x) - _kernel_diagonal_sum(x)) / (n * (n - 1))
    within_y = (_kernel_sum(y, y) - _kernel_diagonal_sum(y)) / (m * (m - 1))
    return within_x + within_y - 2 * _kernel_sum(x, y) / (n * m)


def kernel_distance_over_subsets(
    x: np.ndarray, y: np.ndarray, subsets: int, size: int, seed: int
) -> tuple[float, float]:
    """Mean and standard deviation of `kernel_distance` over random subsets of both sides.

    Args:
        x, y: features `(n, d)` and `(m, d)`.
        subsets: how many are drawn, each without repetition within itself.
        size: vectors of a subset on each side, at most the smaller of n and m.
        seed: of the choice.

    Returns:
        the mean, and the standard deviation over the subsets (0 for a single one).

    Raises:
        Refused: where a subset is larger than a side or smaller than 2.
    """
    if size > min(len(x), len(y)):
        raise Refused(f"kernel distance: subsets of {size} from {len(x)} and {len(y)} vectors; choose smaller subsets")
    random = np.random.default_rng(seed)
    values = [
        kernel_distance(x[random.choice(len(x), size, replace=False)], y[random.choice(len(y), size, replace=False)])
        for _ in range(subsets)
    ]
    return float(np.mean(values)), float(np.std(values))


def _kernel_sum(x: np.ndarray, y: np.ndarray) -> float:
    blocks = (x[start : start + _BLOCK] @ y.T / x.shape[1] + 1 for start in range(0, len(x), _BLOCK))
    return float(sum(np.sum(block * block * block) for block in blocks))


def _kernel_diagonal_sum(x: np.ndarray) -> float:
    return float(np.sum((np.einsum("nd,nd->n", x, x) / x.shape[1] + 1) ** 3))
