from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from flows.retraining.stale import is_here, measure, read_graph
from ganlib.problems import Refused
from tests.flows.releasing import Releasing, build_project

PLAN = """stages:
  ingest:
    cmd: mkdir -p data/prepared && cat data/raw/*/* > data/prepared/all
    deps: [data/raw]
    outs: [data/prepared]
  train:
    matrix:
      model: ${models}
    cmd: mkdir -p models/${item.model} && cp data/prepared/all models/${item.model}/weights
    deps: [data/prepared]
    params: ["train.${item.model}"]
    outs: ["models/${item.model}/weights"]
  judge:
    cmd: cat data/other > judge
    deps: [data/other]
    outs: [judge]
  export:
    matrix:
      model: ${models}
    cmd: cat judge models/${item.model}/weights > models/${item.model}/package
    deps: ["models/${item.model}/weights", judge]
    outs: ["models/${item.model}/package"]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Releasing:
    """Two models, all of it up to date."""
    made = build_project(tmp_path_factory.mktemp("stale"), ["one", "two"], plan=PLAN)
    write_parameters(made, steps=1)
    for name in ("raw/first/a", "other"):
        file = made.folder / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    made.dvc("add", "--quiet", "data/raw/first", "data/other", then=["repro", "--quiet"])
    return made


def write_parameters(project: Releasing, steps: int) -> None:
    train = {"one": {"steps": steps}, "two": {"steps": 1}}
    (project.folder / "params.yaml").write_text(yaml.safe_dump({"models": ["one", "two"], "train": train}))


def told_by_dvc(project: Releasing, targets: Sequence[str]) -> set[str]:
    said = project.dvc("repro", "--dry", "--allow-missing", *targets)
    return set(re.findall(r"^Running stage '(.+)':$", said, flags=re.MULTILINE))


def test_the_graph_is_dvcs(project: Releasing) -> None:
    graph = read_graph(project.folder, "one")
    dot = re.findall(r'^\s*"(.+)" -> "(.+)";$', project.dvc("dag", "--dot"), flags=re.MULTILINE)
    edges = {(needed, name) for name, all_needed in graph.needed.items() for needed in all_needed}
    assert edges == {(needed, name) for needed, name in dot if not name.endswith("two")}
    assert set(graph.stages) == {"ingest", "train@one", "judge", "export@one"}
    assert graph.stages.index("ingest") < graph.stages.index("train@one") < graph.stages.index("export@one")
    assert graph.due == ()
    assert graph.inputs(["train@one", "export@one"]) == ("ingest", "judge")
    assert graph.inputs(["ingest"]) == ("data/raw/first.dvc",)


def test_what_is_stale_is_what_dvc_says(project: Releasing) -> None:
    write_parameters(project, steps=2)
    graph = read_graph(project.folder, "one")
    assert told_by_dvc(project, graph.stages) == {"train@one"}
    assert graph.due == ("train@one", "export@one")
    assert graph.why == "train@one: train.one is modified"
    assert read_graph(project.folder, "two").due == ()
    write_parameters(project, steps=1)
    graph = read_graph(project.folder, "one")
    assert (graph.due, graph.why) == ((), "")

    for path in ("data/prepared/all", "models/one/weights", "models/one/package", "judge"):  # not here is no change
        (project.folder / path).unlink()
    (project.folder / "data/prepared").rmdir()
    assert told_by_dvc(project, graph.stages) == set()
    assert read_graph(project.folder, "one").due == ()
    (project.folder / "data/other").write_text("changed")
    assert told_by_dvc(project, graph.stages) == {"judge"}
    graph = read_graph(project.folder, "one")
    assert graph.due == ("judge", "export@one")
    assert graph.why == "judge: data/other is modified"
    plan = project.folder / "dvc.yaml"
    plan.write_text(plan.read_text().replace("cat data/other", "cat < data/other"))
    assert read_graph(project.folder, "one").why == "judge: its command has changed"
    plan.write_text(plan.read_text().replace("cat < data/other", "cat data/other"))


def test_whether_tracked_data_is_here(project: Releasing, tmp_path: Path) -> None:
    files = ["data/raw/first.dvc"]
    assert is_here(project.folder, files)
    assert is_here(project.folder, [])
    assert not is_here(project.folder, [*files, "data/nix.dvc"])
    file = project.folder / "data/raw/first/a"
    file.rename(tmp_path / "a")
    assert not is_here(project.folder, files)
    (tmp_path / "a").rename(file)
    assert is_here(project.folder, files)


def test_a_stage_that_has_never_run(tmp_path: Path) -> None:
    made = build_project(tmp_path, ["one"], plan=PLAN)
    write_parameters(made, steps=1)
    assert read_graph(made.folder, "one").why == "train@one: it has never run"


def test_files_are_counted_as_dvc_counts_them(project: Releasing) -> None:
    raw = project.folder / "data/raw"
    made_of = yaml.safe_load((project.folder / "dvc.lock").read_text())["stages"]["ingest"]["deps"][0]
    assert measure(project.folder, "data/raw") == (made_of["nfiles"], made_of["size"])
    assert measure(project.folder, "data/raw/first/a") == (1, len("raw/first/a"))
    assert measure(project.folder, "data/raw/nothing") == (0, 0)
    (raw / "second").mkdir()
    (raw / "second" / ".hg").mkdir()
    for name in ("b", ".hg/ignored"):
        (raw / "second" / name).write_text("four")
    assert measure(project.folder, "data/raw") == (made_of["nfiles"] + 1, made_of["size"] + 4)
    assert measure(project.folder, "data/raw", ["data/raw/second"]) == (made_of["nfiles"], made_of["size"])
    shutil.rmtree(raw / "second")


def test_a_plan_that_dvc_cannot_read(tmp_path: Path) -> None:
    made = build_project(tmp_path)
    (made.folder / "dvc.yaml").write_text("stages: {train: {}}\n")
    with pytest.raises(Refused, match=r"dvc\.yaml"):
        read_graph(made.folder, "one")
