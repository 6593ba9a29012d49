"""Whether an ONNX file gives what torch gives, measured on the very file that is shipped.

`torch.onnx.export` keeps one arm of a Python branch on a size without a word, so batches below, at and far above the
example's are compared: 1, 7 and 64, the largest that `ganlib.inference` ever runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ganlib.card import ModelCard
from ganlib.data.store import to_uint8
from ganlib.export.onnx import UNIT, evaluating
from ganlib.families.base import Family
from ganlib.inference.latents import latents
from ganlib.inference.sample import BATCH
from ganlib.inference.session import Session, open_session
from ganlib.problems import Failed, Refused

BATCHES = (1, 7, BATCH)
_SEED = 1_000_000


@dataclass(frozen=True)
class Difference:
    """ONNX against torch over one batch.

    Attributes:
        batch: images compared.
        error: largest absolute difference, images in [-1, 1].
        level_difference: largest difference of the finished images, in levels of 0 to 255.
        differing: share of the finished images' values that differ at all.
    """

    batch: int
    error: float
    level_difference: int
    differing: float


def check_parity(
    family: Family, card: ModelCard, path: Path, tolerance: float, embeddings: NDArray[np.float32] | None = None
) -> tuple[Difference, ...]:
    """Compare an exported generator with torch at every batch of `BATCHES`, on random latents and conditions.

    Args:
        family: with the weights that were exported.
        card: the model's card.
        path: the file that `export_generator` wrote.
        tolerance: largest absolute difference before quantisation, images in [-1, 1].
        embeddings: `(n, d)` float32 that a text model's conditions are drawn from; None draws N(0, 1) instead.

    Returns:
        a measurement for each batch.

    Raises:
        Failed: naming the batch and the difference, where it is above the tolerance or one level of 255, or the file
            does not run.
    """
    try:
        finished, unfinished = open_session(path, "cpu"), open_session(_before_quantisation(path), "cpu")
        return tuple(_compare(family, card, finished, unfinished, batch, tolerance, embeddings) for batch in BATCHES)
    except Refused as error:
        raise Failed(f"{card.name}: {error}") from error


def recorded(differences: tuple[Difference, ...]) -> dict[str, float]:
    """The measurements as the card holds them, by what was measured and the batch, for example `error/7`."""
    return {
        f"{name}/{difference.batch}": float(getattr(difference, name))
        for name in ("error", "level_difference", "differing")
        for difference in differences
    }


def _compare(
    family: Family,
    card: ModelCard,
    finished: Session,
    unfinished: Session,
    batch: int,
    tolerance: float,
    embeddings: NDArray[np.float32] | None,
) -> Difference:
    inputs = {"z": latents(range(_SEED + batch, _SEED + 2 * batch), card.latent)}
    rng = np.random.default_rng(batch)
    if card.condition.kind == "class":
        inputs["class"] = rng.permutation(np.arange(batch) % card.condition.size)
    elif card.condition.kind == "text":
        drawn = rng.standard_normal((batch, card.condition.size))
        rows = drawn if embeddings is None else embeddings[rng.integers(0, len(embeddings), batch)]
        inputs["text"] = np.asarray(rows, dtype=np.float32)
    z, *condition = (torch.from_numpy(value) for value in inputs.values())
    with evaluating(family):
        expected = family.sample(z, condition[0] if condition else None)
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
        error=float(np.abs(unfinished.run(**inputs) - expected.numpy()).max()),
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


def _before_quantisation(path: Path) -> bytes:
    """The same graph, giving the images before quantisation instead."""
    model = onnx.load(path)
    if not any(UNIT in node.output for node in model.graph.node):
        raise Refused(f"{path}: no value {UNIT}; it was not written by `ganlib export`")
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(UNIT, TensorProto.FLOAT, None))
    content: bytes = model.SerializeToString()
    return content
