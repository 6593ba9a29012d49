"""Signs of collapse: how far apart generated images are, relative to real ones."""

from __future__ import annotations

import numpy as np

from ganlib.problems import Refused

_BLOCK = 2048  # rows of the distance matrix held at once


def mean_distance(features: np.ndarray) -> float:
    """Mean Euclidean distance over all pairs of features `(n, d)`, in float64.

    Raises:
        Refused: for fewer than 2 vectors.
    """
    n = len(features)
    if n < 2:
        raise Refused(f"diversity: found {n} feature vectors; a distance needs at least 2")
    features = np.asarray(features, dtype=np.float64)
    features = features - features.mean(0)  # distances stay, and the cancellation in |a|^2 - 2ab + |b|^2 shrinks
    squares = np.einsum("nd,nd->n", features, features)
    total = 0.0
    for start in range(0, n, _BLOCK):
        rows = slice(start, start + _BLOCK)
        squared = squares[rows, None] - 2 * features[rows] @ features.T + squares
        at = np.arange(start, min(start + _BLOCK, n))
        squared[at - start, at] = 0.0  # exact for a vector with itself
        total += float(np.sqrt(squared.clip(min=0)).sum())
    return total / (n * (n - 1))


def diversity(generated: np.ndarray, real: np.ndarray) -> float:
    """Mean pairwise distance of generated features `(n, d)` over that of real ones `(m, d)`: 0 where all generated
    images are the same, 1 where they vary as much as real ones do."""
    return mean_distance(generated) / mean_distance(real)


def diversity_within_class(
    generated: np.ndarray, asked: np.ndarray, real: np.ndarray, labels: np.ndarray
) -> float | None:
    """Mean over the labels of `diversity` among images of that label: near 0 where the latent is ignored.

    Args:
        generated, asked: features `(n, d)` and the labels `(n,)` they were generated for.
        real, labels: features `(m, d)` and labels `(m,)` of real images.

    Returns:
        the mean over labels with at least 2 images on both sides; None where there is none.
    """
    ratios = [
        diversity(generated[asked == label], real[labels == label])
        for label in np.unique(asked)
        if min(np.sum(asked == label), np.sum(labels == label)) > 1
    ]
    return float(np.mean(ratios)) if ratios else None
