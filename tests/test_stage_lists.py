"""A stage stands in four places: dvc.yaml, params.yaml, ganlib/stages.py and the command line. They agree."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from ganlib import stages
from ganlib.__main__ import app
from ganlib.config import Params
from ganlib.stages import Project

TOP = Path(__file__).parent.parent
PROJECTS = sorted(file.parent for file in (TOP / "params.yaml", *TOP.glob("examples/*/params.yaml")))
PLAN: dict[str, dict[str, Any]] = yaml.safe_load((TOP / "dvc.yaml").read_text())["stages"]
MODEL = "${item.model}"

each_project = pytest.mark.parametrize("folder", PROJECTS, ids=lambda folder: folder.name)


def paths(stage: str, *kinds: str) -> list[str]:
    """The paths that dvc.yaml gives a stage under the keys `kinds`."""
    entries = [entry for kind in kinds for entry in PLAN[stage].get(kind, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def test_each_section_is_a_stage_a_function_and_a_command() -> None:
    sections = set(Params.model_fields) - {"models"}
    assert set(PLAN) == sections
    functions = {name for name in PLAN if inspect.isfunction(getattr(stages, name, None))}
    assert functions == sections
    command = typer.main.get_command(app)
    assert sections <= set(command.commands)


@pytest.mark.parametrize("stage", PLAN)
def test_the_command_of_a_stage_is_ganlib_with_its_name(stage: str) -> None:
    takes_model = "name" in inspect.signature(getattr(stages, stage)).parameters
    assert PLAN[stage]["cmd"] == f"python -m ganlib {stage}" + (f" {MODEL}" if takes_model else "")
    assert PLAN[stage].get("matrix") == ({"model": "${models}"} if takes_model else None)
    assert PLAN[stage]["params"] == ([f"train.{MODEL}"] if stage == "train" else [stage])


@each_project
def test_every_setting_that_dvc_watches_is_there(folder: Path) -> None:
    settings = yaml.safe_load((folder / "params.yaml").read_text())
    for stage in PLAN:
        assert stage in settings, f"dvc needs the section, if only as `{stage}: {{}}`"
    assert all(settings["train"][model] for model in settings["models"])


@each_project
def test_the_settings_are_valid(folder: Path) -> None:
    project = Project.open(folder / "params.yaml")
    assert project.folder == folder


@each_project
def test_every_project_has_the_same_plan_and_a_place_for_raw_files(folder: Path) -> None:
    own, top = ((place / "dvc.yaml").read_text().partition("\nartifacts:\n") for place in (folder, TOP))
    assert own[:2] == top[:2]
    models = yaml.safe_load((folder / "params.yaml").read_text())["models"]
    assert yaml.safe_load(own[2]) == {name: {"path": f"models/{name}/package", "type": "model"} for name in models}
    assert (folder / "data" / "raw").is_dir()


def test_results_lie_where_the_project_says() -> None:
    project = Project.open(TOP / "params.yaml")
    model, report = project.model(MODEL), project.report(MODEL)
    places = {
        "ingest": [project.prepared],
        "embed": [project.embedded],
        "extractor": [project.extractor],
        "train": [
            *(model / f"{name}.safetensors" for name in ("weights", "state")),
            *(model / name for name in ("card.json", "history.jsonl", "samples")),
        ],
        "evaluate": [
            *(report / name for name in ("protocol.json", "rows.txt", "metrics.json")),
            *(report / name for name in ("plots/curves", "plots/agreement", "pictures")),
        ],
        "export": [model / "package"],
    }
    for stage in PLAN:
        assert [TOP / path for path in paths(stage, "outs", "metrics", "plots")] == places[stage], stage


def test_what_a_stage_reads_another_writes() -> None:
    written = {path for stage in PLAN for path in paths(stage, "outs", "metrics", "plots")}
    for stage in PLAN:
        assert set(paths(stage, "deps")) <= written | {"data/raw"}, stage


def test_the_docstring_of_the_stages_names_every_stage() -> None:
    assert set(re.findall(r"(\w+) +->", stages.__doc__ or "")) == set(PLAN)
