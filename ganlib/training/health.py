"""What a run that goes wrong looks like while its losses still look fine."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

WINDOW = 8  # log entries in a row
SAME = 0.03  # probabilities closer than this are the same
FEW = {"none": 0.25, "class": 0.25, "text": 0.1}  # spread below which samples of a condition are nearly one picture


def spread(images: np.ndarray, columns: int) -> float:
    """Mean distance between the images of a row of a grid: of one condition and different latents.

    Args:
        images: `(rows * columns, H, W, C)` uint8.
        columns: images in a row, 2 or more.

    Returns:
        the mean over all pairs of the root mean square difference, in levels (0 to 255).
    """
    rows = images.reshape(-1, columns, *images.shape[1:])
    return float(np.mean([_distances(row).sum() for row in rows]) / (columns * (columns - 1)))


def real_spread(images: np.ndarray, labels: np.ndarray | None) -> float:
    """What `spread` is compared with: the mean distance between real images, of one class where there are labels.

    Args:
        images: `(N, H, W, C)` uint8, two or more.
        labels: `(N,)`, or None for any two images.

    Returns:
        in levels, 1 at least. Where no two images share a class, that of any two.
    """
    distances = _distances(images)
    others = ~np.eye(len(images), dtype=bool)
    pairs = others if labels is None else others & (labels[:, None] == labels[None])
    return max(float(distances[pairs if pairs.any() else others].mean()), 1.0)


def _distances(images: np.ndarray) -> np.ndarray:
    """The root mean square differences `(N, N)` of images."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    products = flat @ flat.T  # exact: sums of whole numbers below 2^53
    squares = np.diag(products)[:, None] + np.diag(products) - 2 * products
    return np.sqrt(squares / flat.shape[1])


class Health:
    """Watches the log of a run and says, once, what is going wrong; again after it was well in between."""

    def __init__(self, few: float) -> None:
        """
        Args:
            few: the spread, relative to real images, below which samples have collapsed.
        """
        self.few = few
        self.gaps: deque[float] = deque(maxlen=WINDOW)
        self.said: set[str] = set()

    def warnings(self, values: Mapping[str, float]) -> list[str]:
        """What is wrong after a log entry.

        Args:
            values: its scalars. Read are p_real and p_wrong, the mean probabilities of real images beside their own
                conditions and beside wrong ones, and sample_spread, how much samples differ relative to real images.
        """
        warnings = []
        if "p_wrong" in values:
            self.gaps.append(abs(values["p_real"] - values["p_wrong"]))
            warnings += self._say(
                "condition",
                len(self.gaps) == WINDOW and max(self.gaps) < SAME,
                f"the discriminator ignores the condition: p_real and p_wrong differ by less than {SAME} for {WINDOW} "
                "log entries, and the generator will ignore it too: lower the penalties, or raise the learning rate",
            )
        if "sample_spread" in values:
            warnings += self._say(
                "collapse",
                values["sample_spread"] < self.few,
                f"collapse: samples of different latents differ {values['sample_spread']:.3f} times as much as real "
                "images do: take the relativistic loss with r1 and r2, add augmentation, or lower the learning rates",
            )
        return warnings

    def _say(self, what: str, wrong: bool, line: str) -> list[str]:
        before = what in self.said
        (self.said.add if wrong else self.said.discard)(what)
        return [line] if wrong and not before else []
