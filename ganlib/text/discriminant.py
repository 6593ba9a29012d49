"""What captions of one image have in common, made loud: linear discriminant directions with the images as classes.

A sentence vector says how something is said as much as what is said. The captions of one image say the same thing in
different ways, so the directions that tell images apart against the scatter within an image are what a generator should
listen to (Fisher 1936; Rao 1948). No label is needed: the neighbours that skip-thought learns from are enough.
"""

from __future__ import annotations

import numpy as np

_SMALLEST = 1e-6  # of the mean variance, added to the scatter within images: a direction in which nothing varies


def discriminant_map(vectors: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The affine map `(vectors - centre) @ matrix` to discriminant directions.

    With W and B the covariances within and between images, the columns are the solutions of B a = lambda W a. Each
    direction gets the variance lambda / (1 + lambda), the share of its variance that is between images (its
    reliability): directions that only carry wording fade out. One factor then brings the mean square of all elements
    to 1.

    Args:
        vectors: `(n, d)`, image by image.
        counts: `(images,)`, captions of each image, adding up to n.

    Returns:
        centre `(d,)` and matrix `(d, d)`, float64. Where no image has two captions nothing can be told apart: the
        matrix then scales each element to unit variance.
    """
    vectors = vectors.astype(np.float64)
    centre = vectors.mean(axis=0)
    centred = vectors - centre
    size = centred.shape[1]
    total = centred.T @ centred / len(centred)
    floor = _SMALLEST * np.trace(total) / size
    freedom = int((counts - 1).clip(min=0).sum())
    if not freedom:
        deviation = np.sqrt(np.diag(total))
        return centre, np.diag(1 / np.where(deviation > np.sqrt(floor), deviation, 1.0))
    image = np.repeat(np.arange(len(counts)), counts)
    means = np.zeros((len(counts), size))
    np.add.at(means, image, centred)
    apart = centred - means[image] / np.maximum(counts, 1)[image, None]
    within = apart.T @ apart / freedom
    shrink = size / (size + freedom)  # few captions say little about W: it is drawn towards a sphere
    within = (1 - shrink) * within + (shrink * np.trace(within) / size + floor) * np.eye(size)
    whiten = np.linalg.inv(np.linalg.cholesky(within)).T  # whiten.T @ within @ whiten = 1
    values, rotation = np.linalg.eigh(whiten.T @ (total - within) @ whiten)
    values, rotation = values[::-1].clip(min=0), rotation[:, ::-1]
    matrix = whiten @ rotation / np.sqrt(1 + values) * np.sqrt(values / (1 + values))
    return centre, matrix / np.sqrt(np.square(centred @ matrix).mean())
