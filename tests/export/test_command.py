"""`ganlib export NAME` and `ganlib export --check PACKAGE` as a person runs them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from ganlib import config, models, stages
from ganlib.card import ModelCard
from ganlib.evaluation.extractor import train_extractor
from ganlib.export import package
from ganlib.families.registry import family
from ganlib.project import Project
from tests.conftest import make_split, write_prepared
from tests.packages import seal

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from ganlib.__main__ import main; main()"  # its import raises


def ganlib(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        capture_output=True,
        check=False,
    )


def test_a_package_is_checked_where_torch_is_not(packed: Callable[[str], Path]) -> None:
    done = ganlib("export", "--check", packed("text"), "--device", "cpu")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "tiny-text: 6 files are those that the card lists, to the byte"
    assert lines[-1] == f"tiny-text: {packed('text')} is sound"
    assert len(lines) == 8


def test_a_fault_is_one_line_and_its_exit_code(packed: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "package"
    shutil.copytree(packed("none"), folder)
    with (folder / "reference.safetensors").open("r+b") as file:
        file.seek(-100, os.SEEK_END)  # a tensor's values
        file.write(bytes(100))
    changed = ganlib("export", "--check", folder)
    assert (changed.returncode, changed.stderr.count("\n")) == (2, 1)
    assert "reference.safetensors: found sha256" in changed.stderr
    seal(folder, ModelCard.load(folder / "card.json"))
    sealed = ganlib("export", "--check", folder, "--device", "cpu")
    assert (sealed.returncode, sealed.stderr.count("\n")) == (1, 1)
    assert sealed.stderr.startswith("ganlib: tiny-none: ")


@pytest.mark.parametrize(
    ("arguments", "found"),
    [((), "neither"), (("flowers", "--check", "folder"), "flowers and --check folder")],
)
def test_a_name_or_a_package_and_not_both(arguments: tuple[str, ...], found: str) -> None:
    done = ganlib("export", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"ganlib: export: found {found}; name a model to export, or a package by --check\n"


def project(folder: Path, **export: object) -> Project:
    """A project with an untrained model of classes, and no extractor."""
    write_prepared(make_split(count=40), folder)
    section = {**dict(family("cgan").tiny), "family": "cgan", "steps": 1}
    content = {"models": ["tiny"], "train": {"tiny": section}, "export": export, "evaluate": {"samples": 20}}
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    opened = Project.open(folder / "params.yaml")
    stages.train(opened, "tiny", lambda line: None)
    return opened


def test_the_stage_holds_int8_to_the_project_s_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = project(tmp_path)
    given: list[package.Measure | None] = []

    def keep(*arguments: object, measure: package.Measure | None) -> None:
        given.append(measure)

    monkeypatch.setattr(package, "write_package", keep)
    stages.export(opened, "tiny", lambda line: None)
    assert given == [None]
    settings = config.Extractor(width=4, features=8, steps=2, batch=16)
    train_extractor(settings, opened.prepared, opened.extractor, lambda line: None)
    stages.export(opened, "tiny", lambda line: None)
    measure = given[1]
    assert measure is not None
    built, _ = models.trained(opened, "tiny")
    found = measure(models.sampler(built))
    assert set(found) == {"frechet_distance", "label_agreement"}
    assert np.isfinite(list(found.values())).all()
    float32 = project(tmp_path / "float32", precisions=["float32"])
    shutil.copytree(opened.extractor, float32.extractor)
    stages.export(float32, "tiny", lambda line: None)
    assert given[2] is None
