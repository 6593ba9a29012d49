"""Modes found among generated samples, where they are known: Lin et al. 2018, PacGAN (arXiv 1712.04086), section 4.

A sample is of high quality within three standard deviations of the nearest centre (in the plane 98.9% of real ones
are); a mode is found where it has one such sample. The reverse divergence is of the histogram of the high-quality
samples over the modes, from uniform, in nats. The paper averages over ten runs of 2,500 samples each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ganlib.problems import Refused


@dataclass(frozen=True)
class Modes:
    """What `find_modes` has found.

    Attributes:
        counts: `(K,)` int64, the high-quality samples of each mode.
        samples: all of them, good or not.
    """

    counts: np.ndarray
    samples: int

    @property
    def found(self) -> int:
        """Modes with a high-quality sample."""
        return int(np.count_nonzero(self.counts))

    @property
    def high_quality(self) -> float:
        """Share of the samples that are of high quality, in [0, 1]."""
        return int(self.counts.sum()) / self.samples

    @property
    def reverse_kl(self) -> float | None:
        """`reverse_kl` of the counts; None where no sample is of high quality."""
        return reverse_kl(self.counts) if self.found else None


def find_modes(points: np.ndarray, centres: np.ndarray, deviation: float, within: float = 3.0) -> Modes:
    """Give each sample to the nearest mode, where it is near enough.

    Args:
        points: samples `(N, d)`.
        centres: of the modes, `(K, d)`.
        deviation: standard deviation of every mode along each axis.
        within: how many deviations from the centre a sample of high quality is at most, by Euclidean distance.

    Raises:
        Refused: without points, and where one is not finite.
    """
    if not len(points):
        raise Refused("modes: found no samples; a share needs one at least")
    if broken := int(np.sum(~np.isfinite(points).all(axis=1))):
        raise Refused(f"modes: found {broken} samples of {len(points)} that are not finite; the training has failed")
    distances = np.linalg.norm(points[:, None].astype(np.float64) - centres, axis=2)
    near = distances.min(axis=1) <= within * deviation
    return Modes(np.bincount(distances.argmin(axis=1)[near], minlength=len(centres)), len(points))


def reverse_kl(counts: np.ndarray) -> float:
    """Divergence KL(p || uniform) of a histogram p over K modes, in nats: 0 where it is uniform, log K for one mode.

    Counts of n samples drawn from K modes alike give (K - 1) / 2n in the mean: no generator gets below.

    Args:
        counts: `(K,)`, not all of them 0.

    Raises:
        Refused: where all are 0.
    """
    if not counts.sum():
        raise Refused("modes: found no samples in any mode; their histogram has no divergence")
    p = counts[counts > 0] / counts.sum()
    return float(np.sum(p * np.log(p * len(counts))))
