"""Whether an ONNX file gives what torch gives, measured on the very file that is shipped.

`torch.onnx.export` keeps one arm of a Python branch on a size without a word, so batches below, at and far above the
example's are compared: 1, 7 and 64, the largest that `ganlib.inference` ever runs; and latents of both ends of the
truncation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ganlib.card import ModelCard
from ganlib.data.store import to_uint8
from ganlib.export.graph import unfinished
from ganlib.export.inputs import BATCHES, Drawing
from ganlib.export.onnx import evaluating
from ganlib.families.base import Family
from ganlib.inference.session import Session, open_session
from ganlib.problems import Failed, Refused


@dataclass(frozen=True)
class Difference:
    """ONNX against torch over one batch.

    Attributes:
        batch: images compared.
        truncation: of their latents.
        error: largest absolute difference, images in [-1, 1].
        level_difference: largest difference of the finished images, in levels of 0 to 255.
        differing: share of the finished images' values that differ at all.
    """

    batch: int
    truncation: float
    error: float
    level_difference: int
    differing: float


def check_parity(
    family: Family,
    card: ModelCard,
    path: Path,
    tolerance: float,
    embeddings: NDArray[np.float32] | None = None,
    truncation: float = 1.0,
) -> tuple[Difference, ...]:
    """Compare an exported generator with torch at every batch of `BATCHES`, on random latents and conditions.

    Args:
        family: with the weights that were exported.
        card: the model's card.
        path: the file that `export_generator` wrote.
        tolerance: largest absolute difference before quantisation, images in [-1, 1].
        embeddings: `(n, d)` float32 that a text model's conditions are drawn from; None draws N(0, 1) instead.
        truncation: of the latents.

    Returns:
        a measurement for each batch.

    Raises:
        Failed: naming the batch and the difference, where it is above the tolerance or one level of 255, or the file
            does not run.
    """
    drawing = Drawing(card, embeddings)
    try:
        finished, before = open_session(path, "cpu"), open_session(unfinished(path).SerializeToString(), "cpu")
        return tuple(_compare(family, drawing, finished, before, batch, truncation, tolerance) for batch in BATCHES)
    except Refused as error:
        raise Failed(f"{card.name}: {error}") from error


def recorded(differences: Iterable[Difference]) -> dict[str, float]:
    """The measurements as the card holds them, by what was measured and the batch, for example `error/7`; of truncated
    latents by the truncation too, for example `error/7@0.05`."""
    return {
        f"{name}/{difference.batch}{'' if difference.truncation == 1 else f'@{difference.truncation:g}'}": float(
            getattr(difference, name)
        )
        for name in ("error", "level_difference", "differing")
        for difference in differences
    }


def _compare(
    family: Family,
    drawing: Drawing,
    finished: Session,
    before: Session,
    batch: int,
    truncation: float,
    tolerance: float,
) -> Difference:
    card, inputs = drawing.card, drawing.of_parity(batch, truncation)
    expected = torch_images(family, inputs)
    levels, shape = to_uint8(expected).numpy().astype(np.int16), (batch, card.size, card.size, card.channels)
    unrounded = np.clip((expected.numpy().transpose(0, 2, 3, 1) + 1.0) * 127.5, 0.0, 255.0)
    got = finished.run(**inputs)
    if got.shape != shape or levels.shape != shape or got.dtype != np.uint8:
        raise Failed(
            f"{card.name}: batch {batch}: ONNX gives {got.dtype} {got.shape}, torch {levels.shape}, the card {shape}"
        )
    distance = np.abs(got.astype(np.int16) - levels)
    difference = Difference(
        batch=batch,
        truncation=truncation,
        error=float(np.abs(before.run(**inputs) - expected.numpy()).max()),
        level_difference=int(distance.max()),
        differing=float(np.mean(distance > 0)),
    )
    if not difference.error <= tolerance or difference.level_difference > 1:  # an error that is no number fails too
        raise Failed(
            f"{card.name}: batch {batch}: ONNX and torch differ by {difference.error:.3g} (tolerance {tolerance:g}) "
            f"and {difference.level_difference} levels of 255 (at most 1); does sample() branch on a size?"
        )
    rounding = float(np.abs(got - unrounded).max())
    if rounding > 0.5 + 127.5 * tolerance + 1e-3:  # other levels than the nearest, which float32 alone cannot explain
        raise Failed(f"{card.name}: batch {batch}: levels are {rounding:.3g} from torch's images, not the nearest ones")
    return difference


def torch_images(family: Family, inputs: Mapping[str, NDArray[Any]]) -> torch.Tensor:
    """What the family's networks make of a graph's inputs: images `(N, C, H, W)` in [-1, 1]."""
    z, *condition = (torch.from_numpy(value) for value in inputs.values())
    with evaluating(family):
        return family.sample(z, condition[0] if condition else None)
