"""Does an image show what was asked for: counts of agreement and their interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ganlib.problems import Refused


@dataclass(frozen=True)
class Proportion:
    """A share `hits / count` with its interval."""

    hits: int
    count: int

    @property
    def share(self) -> float:
        return self.hits / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """The Wilson 95% interval."""
        return wilson_interval(self.hits, self.count)


def wilson_interval(hits: int, count: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927); `z` is the normal quantile, 1.96 for 95%.

    It solves |p - share| = z sqrt(p (1 - p) / count) for p, and so stays within [0, 1] and has a width at 0 and 1 too.

    Raises:
        Refused: for a count of 0.
    """
    if count < 1:
        raise Refused("proportion: found no trials; nothing can be said of its share")
    share = hits / count
    centre = share + z**2 / (2 * count)
    half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    return max(0.0, float((centre - half) / scale)), min(1.0, float((centre + half) / scale))


def label_agreement(logits: np.ndarray, labels: np.ndarray) -> Proportion:
    """How many of `logits` `(n, classes)` are largest at `labels` `(n,)`."""
    return Proportion(int(np.sum(logits.argmax(1) == labels)), len(labels))


def attribute_agreement(logits: np.ndarray, values: np.ndarray, stated: np.ndarray) -> Proportion | None:
    """How many of the images whose caption states the attribute show the stated value.

    Args:
        logits: `(n, values of the attribute)`.
        values: `(n,)`, the value that the captions describe, as an index.
        stated: `(n,)` bool, whether the caption says it; what it leaves open is the generator's to choose.

    Returns:
        None where no caption states it.
    """
    return label_agreement(logits[stated], values[stated]) if stated.any() else None
