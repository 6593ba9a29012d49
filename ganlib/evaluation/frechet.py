"""Frechet distance between two sets of feature vectors, in float64 (Heusel et al. 2017, equation 6).

Both sets are taken for Gaussians, and between Gaussians the 2-Wasserstein distance has a closed form (Dowson and
Landau 1982): |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2).
"""

from __future__ import annotations

import numpy as np

from ganlib.problems import Refused


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean `(d,)` and unbiased covariance `(d, d)` of features `(n, d)`, in float64.

    Raises:
        Refused: for fewer than 2 samples, which have no covariance.
    """
    features = _checked(features)
    mean = features.mean(0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


def frechet_between_gaussians(mean1: np.ndarray, S1: np.ndarray, mean2: np.ndarray, S2: np.ndarray) -> float:
    """Squared Frechet distance of N(mean1, S1) and N(mean2, S2); means `(d,)`, covariances `(d, d)`, symmetric.

    S1 S2 is similar to sqrt(S1) S2 sqrt(S1), which is symmetric: its eigenvalues come from eigh, real and to full
    precision, where a general matrix square root of S1 S2 loses both when a covariance is singular.
    """
    root = _square_root(S1)
    eigenvalues = np.linalg.eigvalsh(root @ S2 @ root)
    overlap = np.sqrt(eigenvalues.clip(min=0)).sum()  # none is negative but by rounding
    return float(np.sum((mean1 - mean2) ** 2) + np.trace(S1) + np.trace(S2) - 2 * overlap)


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Squared Frechet distance between features `(n, d)` and `(m, d)`.

    Where a set has fewer vectors than dimensions its covariance is singular, and the cross term is computed from the
    samples themselves (`nuclear_overlap`), which is exact and cheaper.

    Raises:
        Refused: for fewer than 2 samples on a side.
    """
    x, y = _checked(x), _checked(y)
    if min(len(x), len(y)) >= x.shape[1]:
        return frechet_between_gaussians(*moments(x), *moments(y))
    centred_x, centred_y = x - x.mean(0), y - y.mean(0)
    trace = np.sum(centred_x**2) / (len(x) - 1) + np.sum(centred_y**2) / (len(y) - 1)
    return float(np.sum((x.mean(0) - y.mean(0)) ** 2) + trace - 2 * nuclear_overlap(centred_x, centred_y))


def nuclear_overlap(centred_x: np.ndarray, centred_y: np.ndarray) -> float:
    """tr (S1 S2)^(1/2) of centred features `(n, d)` and `(m, d)` without their covariances.

    With S1 = X'X/(n-1) and S2 = Y'Y/(m-1), the nonzero eigenvalues of S1 S2 are those of (YX')(YX')'/((n-1)(m-1)), so
    the trace of the root is the sum of singular values of XY' over sqrt((n-1)(m-1)).
    """
    singular = np.linalg.svd(centred_x @ centred_y.T, compute_uv=False)
    return float(singular.sum() / np.sqrt((len(centred_x) - 1) * (len(centred_y) - 1)))


def _square_root(S: np.ndarray) -> np.ndarray:
    eigenvalues, vectors = np.linalg.eigh(S)
    return (vectors * np.sqrt(eigenvalues.clip(min=0))) @ vectors.T


def _checked(features: np.ndarray) -> np.ndarray:
    if len(features) < 2:
        raise Refused(f"Frechet distance: found {len(features)} feature vectors; a covariance needs at least 2")
    return np.asarray(features, dtype=np.float64)
