"""Every registered family as a package: float32 and float16, checked as a stranger would check it; and in int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ganlib.card import DatasetSpec, ModelCard
from ganlib.config import Export
from ganlib.export.graph import finish, unfinished
from ganlib.export.inputs import Drawing
from ganlib.export.package import write_package
from ganlib.export.quantise import in_int8
from ganlib.families.base import Family
from ganlib.families.objective import Objective
from ganlib.families.registry import FAMILIES, family
from ganlib.inference.session import open_session
from ganlib.inference.verify import psnr, verify
from ganlib.losses.adversarial import LOSSES

CLASSES = ("daisy", "poppy", "rose")


def built(name: str, text: int) -> tuple[Family, ModelCard]:
    """A tiny family whose every weight does something, and its card."""
    of = family(name)
    spec = DatasetSpec(
        name="folder", size=8, channels=3, counts={"train": 9}, classes=CLASSES, mean=(0.0,) * 3, std=(1.0,) * 3
    )
    torch.manual_seed(0)
    made = of(spec, text, of.Network.model_validate(of.tiny["network"]), Objective(LOSSES["non-saturating"]))
    for key in made.averaged():
        for value in made.networks[key].parameters():
            value.data += 0.05 * torch.randn_like(value)
    card = ModelCard(
        name="tiny",
        family=name,
        latent=made.latent,
        condition=made.condition,
        size=8,
        channels=3,
        classes=CLASSES if made.condition.kind == "class" else (),
        steps=1,
        images_seen=1,
        parameters={},
        data={},
    )
    return made, card


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_in_every_precision(name: str, embedded: Path, tmp_path: Path) -> None:
    dimension = np.load(embedded / "embeddings.npy").shape[1]
    made, card = built(name, dimension)
    lines: list[str] = []
    config = Export(precisions=["float32", "float16"])
    text = embedded if card.condition.kind == "text" else None
    card = write_package(made, card, text, None, config, tmp_path / "package", lines.append)
    assert not [line for line in lines if "left out" in line]
    assert 50 < card.variants["float16"].psnr < 72  # 72 is one value of 192 by one level
    keys = {f"{b}{t}" for b in (1, 7, 64) for t in ("", "@0.05")}
    assert set(card.parity) == {f"{what}/{key}" for what in ("error", "level_difference", "differing") for key in keys}
    assert max(value for key, value in card.parity.items() if key.startswith("error/")) < 1e-4
    assert card.latency is not None
    assert set(card.latency.milliseconds) == {f"{p}/{b}" for p in ("float32", "float16") for b in (1, 7, 64)}
    int8 = in_int8(unfinished(tmp_path / "package" / "generator.onnx"), Drawing(card))
    assert int8 is not None
    finish(int8, card)
    inputs = Drawing(card).of_parity(64, 1.0)
    expected = open_session(tmp_path / "package" / "generator.onnx", "cpu", 1).run(**inputs)
    assert 25 < psnr(open_session(int8.SerializeToString(), "cpu", 1).run(**inputs), expected) < 84
    checked: list[str] = []
    assert verify(tmp_path / "package", checked.append, "cpu").card == card
    assert [line for line in checked if "float16 on cpu: images are at" in line]
