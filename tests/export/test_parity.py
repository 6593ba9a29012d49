"""Parity: what ONNX gives is what torch gives, and a graph that is not is caught."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from ganlib.export.onnx import export_generator
from ganlib.export.parity import BATCHES, check_parity, recorded
from ganlib.problems import Failed

TOLERANCE = 1e-4


@pytest.mark.parametrize("kind", ["none", "class", "text"])
def test_a_sound_export_passes(tiny: SimpleNamespace, exported: Callable[[str], Path], kind: str) -> None:
    family, path = tiny.Family(kind), exported(kind)
    differences = check_parity(family, family.card(), path, TOLERANCE)
    assert [difference.batch for difference in differences] == [1, 7, 64] == list(BATCHES)
    assert all(0 < difference.error < 1e-5 for difference in differences)  # measured, and float32's
    assert all(difference.level_difference <= 1 and difference.differing < 0.01 for difference in differences)
    kept = recorded(differences)
    assert kept["error/7"] == differences[1].error
    assert set(kept) == {f"{name}/{n}" for name in ("error", "level_difference", "differing") for n in (1, 7, 64)}
    truncated = check_parity(family, family.card(), path, TOLERANCE, truncation=0.05)
    assert {(one.batch, one.truncation) for one in truncated} == {(1, 0.05), (7, 0.05), (64, 0.05)}
    assert recorded((*differences, *truncated)) == kept | recorded(truncated)
    assert recorded(truncated)["error/7@0.05"] == truncated[1].error
    with pytest.raises(Failed, match=r"tiny-.*: batch 1: ONNX and torch differ by .* \(tolerance 1e-12\)"):
        check_parity(family, family.card(), path, 1e-12)


def test_conditions_are_drawn_from_the_embeddings(tiny: SimpleNamespace, exported: Callable[[str], Path]) -> None:
    """A family that goes wrong for large vectors alone: found with such embeddings, and not without."""
    family, path = tiny.Family("text"), exported("text")
    plain = family.sample
    family.sample = lambda z, condition: plain(z, condition) * (condition.abs().max() < 100)
    check_parity(family, family.card(), path, TOLERANCE)
    with pytest.raises(Failed, match="batch 1"):
        check_parity(family, family.card(), path, TOLERANCE, np.full((3, 5), 200.0, np.float32))


@pytest.mark.parametrize(("limit", "batch"), [(1, 1), (3, 7), (40, 64)])
def test_a_branch_on_the_batch_size_is_caught(tiny: SimpleNamespace, tmp_path: Path, limit: int, batch: int) -> None:
    """torch.onnx.export bakes in the arm that the example of 2 takes, without a word."""
    family = tiny.Family("none")
    plain = family.sample
    family.sample = lambda z, condition: plain(z, condition) if z.shape[0] > limit else plain(-z, condition)
    export_generator(family, family.card(), tmp_path / "g.onnx", 20)
    with pytest.raises(Failed, match=f"tiny-none: batch {batch}: ONNX and torch differ by"):
        check_parity(family, family.card(), tmp_path / "g.onnx", TOLERANCE)


def test_what_goes_wrong_near_the_mean_alone_is_caught(tiny: SimpleNamespace, exported: Callable[[str], Path]) -> None:
    """A family whose short latents give other images than its graph: found at the other end of the truncation."""
    family, path = tiny.Family("none"), exported("none")
    plain = family.sample
    family.sample = lambda z, condition: plain(torch.where(z.norm(dim=1, keepdim=True) < 0.5, -z, z), condition)
    check_parity(family, family.card(), path, TOLERANCE)
    with pytest.raises(Failed, match="tiny-none: batch 1: ONNX and torch differ by"):
        check_parity(family, family.card(), path, TOLERANCE, truncation=0.05)


def change(path: Path, name: str, by: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change a constant of the graph."""
    model = onnx.load(path)
    (found,) = [constant for constant in model.graph.initializer if constant.name.endswith(name)]
    found.CopyFrom(numpy_helper.from_array(by(numpy_helper.to_array(found).copy()), found.name))
    onnx.save(model, path)


def nudge(values: np.ndarray) -> np.ndarray:
    values.flat[-1] += 0.01
    return values


@pytest.mark.parametrize(
    ("constant", "by"),
    [
        ("layers.3.weight", nudge),  # one weight of the last layer
        ("layers.0.weight", lambda values: np.full_like(values, np.nan)),
        ("unit_to_level_scale", lambda value: value * np.float32(1.02)),  # after the float images
        ("unit_to_level_shift", lambda value: value - np.float32(0.5 / 127.5)),  # rounding down: one level at most
    ],
)
def test_tampered_weights_are_caught(
    tiny: SimpleNamespace,
    exported: Callable[[str], Path],
    tmp_path: Path,
    constant: str,
    by: Callable[[np.ndarray], np.ndarray],
) -> None:
    family = tiny.Family("class")
    shutil.copy(exported("class"), tmp_path / "g.onnx")
    change(tmp_path / "g.onnx", constant, by)
    with pytest.raises(Failed, match=r"tiny-class: batch \d+: "):
        check_parity(family, family.card(), tmp_path / "g.onnx", TOLERANCE)


def test_a_tampered_graph_is_caught(tiny: SimpleNamespace, exported: Callable[[str], Path], tmp_path: Path) -> None:
    family = tiny.Family("none")
    model = onnx.load(exported("none"))
    (tanh,) = [node for node in model.graph.node if node.op_type == "Tanh"]
    tanh.op_type = "Softsign"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(Failed, match="batch 1: ONNX and torch differ"):
        check_parity(family, family.card(), tmp_path / "other.onnx", TOLERANCE)
    tanh.op_type = "Tanh"
    for node in model.graph.node:  # the same images, but the value before quantisation is hidden
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = "elsewhere" if name == "unit_images" else name
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(Failed, match="no value unit_images"):
        check_parity(family, family.card(), tmp_path / "other.onnx", TOLERANCE)


def test_other_weights_are_caught(tiny: SimpleNamespace, exported: Callable[[str], Path]) -> None:
    """The file of one training, the family of another."""
    other = tiny.Family("none")
    other.networks["generator"].layers[1].running_mean.add_(0.01)
    with pytest.raises(Failed, match="batch 1: ONNX and torch differ"):
        check_parity(other, other.card(), exported("none"), TOLERANCE)


def test_a_size_that_is_not_the_cards_is_caught(tiny: SimpleNamespace, exported: Callable[[str], Path]) -> None:
    family = tiny.Family("none")
    card = family.card().model_copy(update={"size": 16})
    with pytest.raises(Failed, match=r"ONNX gives uint8 \(1, 8, 8, 3\), .* the card \(1, 16, 16, 3\)"):
        check_parity(family, card, exported("none"), TOLERANCE)
