"""Every registered family in its tiny configuration goes the whole way: train, load, sample, export, parity."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from ganlib import stages
from ganlib.config import merge
from ganlib.export.onnx import export_generator
from ganlib.export.parity import check_parity
from ganlib.families.registry import FAMILIES, family
from tests.conftest import make_split, write_prepared


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_goes_from_data_to_onnx(name: str, channels: int, tmp_path: Path) -> None:
    write_prepared(make_split(count=40, channels=channels), tmp_path)
    section = merge(dict(family(name).tiny), {"family": name, "steps": 3})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"models": ["tiny"], "train": {"tiny": section}}))
    project = stages.Project.open(tmp_path / "params.yaml")
    stages.train(project, "tiny", lambda line: None)
    built, card = stages.trained(project, "tiny")
    assert (card.family, card.steps, card.channels) == (name, 3, channels)
    history = [json.loads(line) for line in (project.model("tiny") / "history.jsonl").read_text().splitlines()]
    assert history[-1]["step"] == 3
    assert all(np.isfinite(value) for value in history[-1].values())

    export_generator(built, card, tmp_path / "generator.onnx", 20)
    differences = check_parity(built, card, tmp_path / "generator.onnx", 1e-4)
    assert [difference.batch for difference in differences] == [1, 7, 64]
    assert all(0 <= difference.error <= 1e-4 for difference in differences)
