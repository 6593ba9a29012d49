"""Values that change over the training, as pure functions of the images seen."""

from __future__ import annotations

import math
from typing import Literal

Shape = Literal["linear", "cosine", "exponential"]


def between(start: float, end: float, progress: float, shape: Shape) -> float:
    """The value at `progress` of the way from `start` to `end`; before 0 it is `start`, after 1 it is `end`.

    Args:
        start: value at progress 0; above 0 for an exponential.
        end: value at progress 1; above 0 for an exponential.
        progress: share of the way.
        shape: linear; cosine (half a period, flat at both ends); exponential (a constant factor for equal ways).
    """
    progress = min(max(progress, 0.0), 1.0)
    if shape == "exponential":
        return start * (end / start) ** progress
    if shape == "cosine":
        progress = (1 - math.cos(math.pi * progress)) / 2
    return start + (end - start) * progress
