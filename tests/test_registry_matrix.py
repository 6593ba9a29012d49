"""Every registered family in its tiny configuration goes the whole way: train, die by kill -9, resume to the bit, load,
sample, export, parity."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from ganlib import models, stages
from ganlib.config import merge
from ganlib.export.onnx import export_generator
from ganlib.export.parity import check_parity
from ganlib.families.registry import FAMILIES, family
from ganlib.project import Project
from tests.conftest import make_split, write_prepared

STEPS = 6

# For each folder a process of its own trains there and kills itself after the step behind a checkpoint. They are forked
# from one that has imported everything.
KILLED = """
import os, signal, sys, torch
from pathlib import Path
from ganlib import stages
from ganlib.project import Project
from ganlib.training.engine import Engine

torch.set_num_threads(1)
run_step = Engine._train_step

def step_and_die(engine):
    values = run_step(engine)
    if engine.step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return values

Engine._train_step = step_and_die
for folder in sys.argv[1:]:
    if (child := os.fork()) == 0:
        stages.train(Project.open(Path(folder) / "params.yaml"), "tiny", lambda line: None)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, folder
"""


def project(folder: Path, name: str, channels: int) -> Path:
    folder.mkdir(parents=True)
    write_prepared(make_split(count=40, channels=channels), folder)
    section = merge(dict(family(name).tiny), {"family": name, "steps": STEPS, "checkpoint_every": 3})
    (folder / "params.yaml").write_text(yaml.safe_dump({"models": ["tiny"], "train": {"tiny": section}}))
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a project for each family whose training was killed."""
    place = tmp_path_factory.mktemp("killed")
    folders = [str(project(place / name, name, 3)) for name in FAMILIES]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *folders], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return place


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_goes_from_data_to_onnx(name: str, channels: int, tmp_path: Path) -> None:
    opened = Project.open(project(tmp_path / "project", name, channels) / "params.yaml")
    stages.train(opened, "tiny", lambda line: None)
    built, card = models.trained(opened, "tiny")
    assert (card.family, card.steps, card.channels) == (name, STEPS, channels)
    history = [json.loads(line) for line in (opened.model("tiny") / "history.jsonl").read_text().splitlines()]
    assert history[-1]["step"] == STEPS
    assert all(np.isfinite(value) for value in history[-1].values())

    export_generator(built, card, tmp_path / "generator.onnx", 20)
    differences = check_parity(built, card, tmp_path / "generator.onnx", 1e-4)
    assert [difference.batch for difference in differences] == [1, 7, 64]
    assert all(0 <= difference.error <= 1e-4 for difference in differences)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_killed_training_ends_with_the_bytes_of_one_that_was_not(name: str, killed: Path, tmp_path: Path) -> None:
    said: list[str] = []
    for folder in (killed / name, project(tmp_path / "whole", name, 3)):
        stages.train(Project.open(folder / "params.yaml"), "tiny", said.append)
    assert [line for line in said if "resumes" in line] == [f"tiny: resumes after step 3 of {STEPS}"]
    for file in ("weights", "state"):
        one, other = (
            (folder / "models" / "tiny" / f"{file}.safetensors").read_bytes()
            for folder in (killed / name, tmp_path / "whole")
        )
        assert one == other
