"""DVC as docs/dvc.md says, in a project of its own with the plan of this repository and real stages."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from ganlib.card import ModelCard
from tests.flows.conftest import environment

TOP = Path(__file__).parent.parent.parent
PARAMETERS: dict[str, Any] = {
    "models": ["tiny"],
    "ingest": {"source": "folder", "path": "data/raw/pictures.zip", "size": 8, "test_share": 0.3},
    "embed": {"encoder": "none"},
    "train": {
        "tiny": {
            "family": "dcgan", "network": {"z": 8, "width": 4, "discriminator_width": 4}, "device": "cpu",
            "generator": {"lr": 0.001}, "steps": 2, "batch": 8, "sample_every": 2,
        },
    },
    "extractor": {"width": 4, "features": 8, "steps": 2, "batch": 8},
    "evaluate": {"samples": 12, "prompts": 4, "subsets": 2, "subset_size": 6},
    "export": {},
}  # fmt: skip
METRICS = "reports/tiny/metrics.json"


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment() | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def dvc(folder: Path, *arguments: str) -> str:
    return run(folder, sys.executable, "-m", "dvc", *arguments)


def git(folder: Path, *arguments: str) -> str:
    return run(folder, "git", "-c", "user.name=tests", "-c", "user.email=tests@example.org", *arguments)


def write_pictures(archive: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    with zipfile.ZipFile(archive, "w") as packed:
        for number in range(40):
            content = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(content, "PNG")
            packed.writestr(f"{'cat' if number % 2 else 'dog'}/{number}.png", content.getvalue())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has run once, was committed as `first` and pushed to a remote beside it."""
    folder = tmp_path_factory.mktemp("use") / "project"
    (folder / "data" / "raw").mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch", "main")
    dvc(folder, "init", "--quiet")
    dvc(folder, "remote", "add", "--quiet", "--default", "store", str(folder.parent / "store"))
    for name in (".dvcignore", ".gitignore"):
        shutil.copy(TOP / name, folder)
    plan = yaml.safe_load((TOP / "dvc.yaml").read_text())
    del plan["stages"]["export"]  # it takes longest and has nothing of its own here
    (folder / "dvc.yaml").write_text(yaml.safe_dump(plan))
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMETERS))
    write_pictures(folder / "data/raw/pictures.zip", seed=1)
    dvc(folder, "add", "--quiet", "data/raw/pictures.zip")
    dvc(folder, "repro", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "first")
    git(folder, "tag", "first")
    dvc(folder, "push", "--quiet")
    return folder


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_fresh_clone_pulls_one_model_and_nothing_else(trained: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(trained), str(clone))
    assert (clone / METRICS).read_bytes() == (trained / METRICS).read_bytes()  # by git
    dvc(clone, "pull", "--quiet", "train@tiny")
    assert {name for name in files(clone) if name.startswith(("models/", "data/"))} == {
        "data/raw/pictures.zip.dvc",
        *(f"models/tiny/{name}" for name in files(trained / "models/tiny")),
    }
    for name in files(trained / "models/tiny"):
        assert (clone / "models/tiny" / name).read_bytes() == (trained / "models/tiny" / name).read_bytes(), name
    assert ModelCard.load(clone / "models/tiny/card.json").steps == 2


def experiments(folder: Path) -> dict[str, dict[str, Any]]:
    """What `dvc exp show` knows of the working tree, the branch and each experiment, by their names."""
    branches = json.loads(dvc(folder, "exp", "show", "--json"))
    ran = [run for branch in branches for of in branch["experiments"] or [] for run in of["revs"]]
    return {state["name"] or state["rev"]: state["data"] for state in [*branches, *ran]}


def test_an_output_is_a_few_files_however_many_pictures_there_are(trained: Path) -> None:
    outputs = experiments(trained)["workspace"]["outs"]
    assert outputs["data/prepared"]["nfiles"] == 3
    assert max(output["nfiles"] or 1 for output in outputs.values()) <= 8


def test_an_experiment_is_run_compared_and_left_alone(trained: Path) -> None:
    before = (trained / METRICS).read_bytes()
    dvc(trained, "exp", "run", "--quiet", "--name", "faster", "-S", "train.tiny.generator.lr=0.01")
    found = {
        name: (
            state["params"]["params.yaml"]["data"]["train"]["tiny"]["generator"]["lr"],
            state["metrics"][METRICS]["data"]["frechet_distance"],
        )
        for name, state in experiments(trained).items()
    }
    assert found.keys() == {"workspace", "main", "faster"}
    assert found["main"] == (0.001, json.loads(before)["frechet_distance"])
    assert found["faster"] == found["workspace"]
    assert found["faster"][0] == 0.01
    changed = json.loads(dvc(trained, "metrics", "diff", "--json", "main", "faster"))[METRICS]["frechet_distance"]
    assert (changed["old"], changed["new"]) == (found["main"][1], found["faster"][1])
    assert changed["diff"] == pytest.approx(changed["new"] - changed["old"])
    assert changed["diff"] != 0
    settings = json.loads(dvc(trained, "params", "diff", "--json", "main", "faster"))["params.yaml"]
    assert settings["train.tiny.generator.lr"] == {"old": 0.001, "new": 0.01, "diff": pytest.approx(0.009)}
    curves = json.loads(dvc(trained, "plots", "diff", "--json", "main", "faster"))["data"]
    (curve,) = curves["reports/tiny/plots/curves/loss_generator.csv"]
    drawn = {point["rev"]: float(point["loss_generator"]) for point in curve["content"]["data"]["values"]}
    assert drawn.keys() == {"main", "faster"}
    assert drawn["main"] != drawn["faster"]
    git(trained, "checkout", "--quiet", ".")
    dvc(trained, "checkout", "--quiet")
    assert (trained / METRICS).read_bytes() == before
    assert json.loads(dvc(trained, "status", "--json")) == {}


def test_an_old_version_of_data_brings_back_a_model_and_its_scores(trained: Path) -> None:
    scores = (trained / METRICS).read_bytes()
    kept = {name: (trained / name).read_bytes() for name in ("data/prepared/images.npy", "data/raw/pictures.zip")}
    write_pictures(trained / "data/raw/pictures.zip", seed=2)
    dvc(trained, "add", "--quiet", "data/raw/pictures.zip")
    dvc(trained, "repro", "--quiet", "ingest")
    assert all((trained / name).read_bytes() != content for name, content in kept.items())
    assert "train@tiny" in json.loads(dvc(trained, "status", "--json"))
    git(trained, "commit", "--quiet", "--all", "--message", "second")

    git(trained, "checkout", "--quiet", "first")
    dvc(trained, "checkout", "--quiet")
    assert all((trained / name).read_bytes() == content for name, content in kept.items())
    assert json.loads(dvc(trained, "status", "--json")) == {}
    (trained / METRICS).unlink()
    dvc(trained, "repro", "--quiet", "--force", "--single-item", "evaluate@tiny")
    assert (trained / METRICS).read_bytes() == scores
    assert git(trained, "status", "--short") == ""
