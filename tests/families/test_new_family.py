"""A family of one's own is one file and one registry line: everything else takes it as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ganlib import models, stages
from ganlib.export.onnx import export_generator
from ganlib.export.parity import check_parity
from ganlib.families import registry
from ganlib.project import Project
from ganlib.registries import describe
from tests.conftest import make_split, write_prepared

FILE = '''
"""Linear GAN: as small as a family can be."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from ganlib.card import Condition, DatasetSpec, Latent
from ganlib.families.base import NetworkSettings, TwoPlayers
from ganlib.families.objective import Objective


class Settings(NetworkSettings):
    z: int = Field(4, ge=1, description="length of the latent")


class LinearGAN(TwoPlayers):
    preset = {"loss": "hinge", "batch": 16, "penalties": {"r1": 0.1}}
    tiny = {"network": {"z": 2}, "batch": 8}
    Network = Settings

    def __init__(self, spec: DatasetSpec, text_dimension: int, network: Settings, objective: Objective) -> None:
        shape = (spec.channels, spec.size, spec.size)
        values = spec.channels * spec.size**2
        self.networks = {
            "generator": nn.Sequential(nn.Linear(network.z, values), nn.Tanh(), nn.Unflatten(1, shape)),
            "discriminator": nn.Sequential(nn.Flatten(), nn.Linear(values, 1), nn.Flatten(0)),
        }
        self.settings, self.objective = network, objective
        self.latent, self.condition = Latent(size=network.z, distribution="normal"), Condition(kind="none")
'''


def test_one_file_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "linear_gan.py").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry.FAMILIES, "linear-gan", "linear_gan:LinearGAN")
    assert describe("families")["linear-gan"]["description"] == "Linear GAN: as small as a family can be"

    write_prepared(make_split(), tmp_path)
    section = {"family": "linear-gan", "steps": 8, "checkpoint_every": 4}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"models": ["mine"], "train": {"mine": section}}))
    project = Project.open(tmp_path / "params.yaml")
    assert project.params.train["mine"].batch == 16  # the preset
    stages.train(project, "mine", lambda line: None)
    built, card = models.trained(project, "mine")
    images = models.sampler(built)(None, 5, 0)
    assert images.shape == (5, 8, 8, 3)
    export_generator(built, card, tmp_path / "generator.onnx", 20)
    assert all(difference.error <= 1e-4 for difference in check_parity(built, card, tmp_path / "generator.onnx", 1e-4))
