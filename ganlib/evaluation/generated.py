"""Generated images on their way to the judge: made in batches, checked, and kept only as far as they are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ganlib.data.progress import watched
from ganlib.evaluation.features import Extractor
from ganlib.problems import Failed

Sample = Callable[[np.ndarray | None, int, int], np.ndarray]
"""A generator, torch or ONNX alike: (condition, count, seed) to images `(count, H, W, C)` uint8. The condition is
float32 embeddings `(count, d)`, int64 labels `(count,)`, or None; the seed is at least 0 and below 2^31."""


@dataclass(frozen=True)
class Generated:
    """Images that were made: their features `(n, d)` float64, and the first `k` of them, `(k, H, W, C)` uint8."""

    features: np.ndarray
    shown: np.ndarray


@dataclass(frozen=True)
class Generator:
    """A `sample` function with the judge of what it makes.

    Attributes:
        sample: the generator.
        extractor: the judge; it also says what shape an image must have.
        batch: images made at once.
        seed: of all latents.
        report: takes a line for the user.
    """

    sample: Sample
    extractor: Extractor
    batch: int
    seed: int
    report: Callable[[str], None]

    def make(self, condition: np.ndarray | None, count: int, purpose: int, shown: int = 0) -> Generated:
        """Make images and judge them.

        Args:
            condition: one row or label for each image; None for an unconditional generator.
            count: images to make.
            purpose: another number gives other latents under the same seed.
            shown: how many of the first images to keep.

        Raises:
            Failed: where what comes back is not `count` images of the right shape in uint8.
        """
        features, kept = [], []
        batches = self._batches(condition, count, purpose)
        total = -(-count // self.batch)
        for number, images in enumerate(
            watched(batches, total, f"batches of {self.batch} generated images", self.report)
        ):
            features.append(self.extractor.features(images))
            kept.append(images[: max(0, shown - number * self.batch)])
        return Generated(np.concatenate(features), np.concatenate(kept))

    def _batches(self, condition: np.ndarray | None, count: int, purpose: int) -> Iterator[np.ndarray]:
        card = self.extractor.card
        for number, start in enumerate(range(0, count, self.batch)):
            size = min(self.batch, count - start)
            part = None if condition is None else condition[start : start + size]
            seed = int(np.random.SeedSequence([self.seed, purpose, number]).generate_state(1)[0]) >> 1
            images = self.sample(part, size, seed)
            if images.shape != (size, card.size, card.size, card.channels) or images.dtype != np.uint8:
                raise Failed(
                    f"generator: returned {images.dtype} {images.shape}; expected uint8 "
                    f"{(size, card.size, card.size, card.channels)}"
                )
            yield images
