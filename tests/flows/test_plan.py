from __future__ import annotations

import re
import shutil

import pytest

from flows.dvc import changed_stages, due_stages, read_plan, with_dependents, with_needed
from ganlib.problems import Refused

PLAN = {
    "ingest": (),
    "train@one": ("ingest",),
    "train@two": ("ingest",),
    "report@one": ("train@one",),
    "report@two": ("train@two",),
}


def test_the_plan_is_what_dvc_draws(project) -> None:
    (project.folder / "other").mkdir()
    project.write("other/dvc.yaml", "stages:\n  after:\n    cmd: 'true'\n    deps: [../models/one/weights]\n")
    drawn = project.dvc("dag", "--dot", "dvc.yaml").stdout
    nodes = set(re.findall(r'^"([^"]+)";', drawn, re.MULTILINE))
    edges = set(re.findall(r'^"([^"]+)" -> "([^"]+)";', drawn, re.MULTILINE))
    plan = read_plan(project.folder)
    assert nodes == {"source", "train@one", "train@two", "report@one", "report@two"} == set(plan)
    assert edges == {(needed, name) for name in plan for needed in plan[name]}
    order = list(plan)
    assert all(order.index(needed) < order.index(name) for needed, name in edges)


def test_a_needed_stage_of_another_file_belongs_to_the_plan(project) -> None:
    (project.folder / "other").mkdir()
    project.write("other/dvc.yaml", "stages:\n  after:\n    cmd: 'true'\n    deps: [../models/one/weights]\n")
    assert read_plan(project.folder / "other") == {
        "../dvc.yaml:source": (),
        "../dvc.yaml:train@one": ("../dvc.yaml:source",),
        "after": ("../dvc.yaml:train@one",),
    }


def test_what_changed_is_what_differs_from_the_last_run(project) -> None:
    assert changed_stages(project.folder) == set(read_plan(project.folder))
    assert project.dvc("repro").returncode == 0
    assert changed_stages(project.folder) == set()
    project.let("two", "something")
    assert changed_stages(project.folder) == {"train@two"}
    assert due_stages(project.folder) == ["train@two", "report@two"]
    assert due_stages(project.folder, ["report@one"]) == []
    (project.folder / "reports/one/text").unlink()
    assert due_stages(project.folder, ["report"]) == ["train@two", "report@one", "report@two"]


def test_dependents_of_dependents_are_due_in_the_order_of_the_plan() -> None:
    assert with_dependents(PLAN, ["train@two"]) == ["train@two", "report@two"]
    assert with_dependents(PLAN, ["report@one", "ingest"]) == list(PLAN)
    assert with_dependents(PLAN, []) == []


def test_a_target_brings_what_it_needs_and_a_group_all_of_its_own() -> None:
    assert with_needed(PLAN, ["report@one"]) == {"ingest", "train@one", "report@one"}
    assert with_needed(PLAN, ["train"]) == {"ingest", "train@one", "train@two"}
    with pytest.raises(Refused, match=r"stage: found 'training'; the plan has ingest, train@one"):
        with_needed(PLAN, ["training"])


def test_a_folder_without_a_plan_is_refused(tmp_path) -> None:
    with pytest.raises(Refused, match=r"dvc\.yaml: no such file"):
        read_plan(tmp_path)


def test_a_plan_that_dvc_cannot_read_is_refused_in_one_line(project) -> None:
    project.write("params.yaml", "models: [one]\n")  # train.one is missing, dvc finds that when it runs
    project.write("dvc.yaml", "stages:\n  source:\n    outs: [a]\n")
    with pytest.raises(Refused, match=r"dvc\.yaml") as caught:
        read_plan(project.folder)
    assert "\n" not in str(caught.value)


def test_a_plan_outside_of_a_repository_is_refused(tmp_path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    with pytest.raises(Refused, match="not inside of a DVC repository"):
        read_plan(tmp_path)


def test_a_project_without_git_is_told_what_would_do(project) -> None:
    shutil.rmtree(project.folder / ".git")
    with pytest.raises(Refused, match="is not a git repository: run git init, or dvc config --local"):
        read_plan(project.folder)
    assert project.dvc("config", "--local", "core.no_scm", "true").returncode == 0
    assert "source" in read_plan(project.folder)
