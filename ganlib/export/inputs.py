"""Latents and conditions as a generator's graph takes them, drawn for parity, calibration and comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganlib.card import ModelCard
from ganlib.inference.latents import latents
from ganlib.inference.sample import BATCH

BATCHES = (1, 7, BATCH)  # below, at and far above the example of the export; BATCH is the largest that is ever run
TRUNCATIONS = (1.0, 0.05)  # both ends: the whole distribution, and latents near its mean
_SEED = 1_000_000


@dataclass(frozen=True)
class Drawing:
    """Where a model's inputs are drawn from.

    Attributes:
        card: the model's card.
        embeddings: `(n, d)` float32 that a text model's conditions are drawn from; None draws N(0, 1) instead.
    """

    card: ModelCard
    embeddings: NDArray[np.float32] | None = None

    def inputs(self, seeds: range, truncation: float = 1.0) -> dict[str, NDArray[Any]]:
        """`z` of the seeds and, by the card's condition, `class` (each as often as the others) or `text`."""
        condition, count = self.card.condition, len(seeds)
        inputs: dict[str, NDArray[Any]] = {"z": latents(seeds, self.card.latent, truncation)}
        rng = np.random.default_rng(seeds.start)
        if condition.kind == "class":
            inputs["class"] = rng.permutation(np.arange(count) % condition.size)
        elif condition.kind == "text":
            drawn = rng.standard_normal((count, condition.size))
            rows = drawn if self.embeddings is None else self.embeddings[rng.integers(0, len(self.embeddings), count)]
            inputs["text"] = np.asarray(rows, dtype=np.float32)
        return inputs

    def of_parity(self, batch: int, truncation: float) -> dict[str, NDArray[Any]]:
        """The inputs that parity compares at a batch size and a truncation, and every other precision after it."""
        return self.inputs(range(_SEED + batch, _SEED + 2 * batch), truncation)
