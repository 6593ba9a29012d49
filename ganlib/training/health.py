"""What a run that goes wrong looks like while its losses still look fine."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

WINDOW = 8  # log entries in a row
SAME = 0.03  # probabilities closer than this are the same
FEW = 0.1  # spread below which samples are nearly one picture


def spread(images: np.ndarray, columns: int) -> float:
    """Mean distance between the images of a row of a grid: of one condition and different latents.

    Args:
        images: `(rows * columns, H, W, C)` uint8.
        columns: images in a row, 2 or more.

    Returns:
        the mean over all pairs of the root mean square difference, in levels (0 to 255).
    """
    rows = images.reshape(-1, columns, images[0].size).astype(np.float32)
    squares = np.square(rows[:, :, None] - rows[:, None, :]).mean(axis=-1)
    return float(np.sqrt(squares).sum() / (len(rows) * columns * (columns - 1)))


class Health:
    """Watches the log of a run and says, once, what is going wrong; again after it was well in between."""

    def __init__(self) -> None:
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
                values["sample_spread"] < FEW,
                f"collapse: samples of different latents differ {values['sample_spread']:.3f} times as much as real "
                "images do: take the relativistic loss with r1 and r2, add augmentation, or lower the learning rates",
            )
        return warnings

    def _say(self, what: str, wrong: bool, line: str) -> list[str]:
        before = what in self.said
        (self.said.add if wrong else self.said.discard)(what)
        return [line] if wrong and not before else []
