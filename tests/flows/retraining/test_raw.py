"""What a retraining learns from is what the branch has tracked in data/raw: all of it, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import retrain
from flows.retraining.look import Findings, look
from flows.retraining.raw import clear_raw
from flows.retraining.settings import open_settings
from flows.worktree import Worktree, worktree
from ganlib.problems import Failed, Refused
from tests.flows.releasing import bare_machine
from tests.flows.retraining.project import MODEL, Retraining, a_copy_of, write_delivery


@pytest.fixture
def people(untrained: Retraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Retraining:
    """The project with its first data, where no stage has run."""
    for name, value in (bare_machine() | {"LOG": str(tmp_path / "log")}).items():
        monkeypatch.setenv(name, value)
    return a_copy_of(untrained, tmp_path / "base")


@pytest.fixture
def tree(people: Retraining) -> Iterator[Worktree]:
    with worktree(people.folder, MODEL) as tree:
        yield tree


def seen(project: Retraining, tree: Worktree) -> Findings:
    return look(tree, open_settings(project.folder), lambda line: None)


def add(project: Retraining, *names: str, then: tuple[str, ...] = ("push", "--quiet")) -> None:
    """Let people put data below data/raw, and dvc keep it."""
    for name in names:
        (project.folder / "data/raw" / name).mkdir(parents=True)
        write_delivery(project.folder / "data/raw" / name, {name: 1})
    project.releasing.dvc("add", "--quiet", *(f"data/raw/{name}" for name in names), then=then)


def in_raw(tree: Worktree) -> set[str]:
    raw = tree.project / "data/raw"
    return {path.relative_to(raw).as_posix() for path in raw.rglob("*")}


FIRST = {"first", "first.dvc", "first/quality.json", "first/SHA256SUMS"}


def test_what_nobody_has_tracked_goes(people: Retraining, tree: Worktree) -> None:
    ignored = "/data/raw/*\n!/data/raw/*.dvc\n!/data/raw/of/\n/data/raw/of/*\n!/data/raw/of/*.dvc\n"
    (people.folder / ".gitignore").write_text(ignored)
    add(people, "of/one")
    (people.folder / "data/raw/notes.txt").write_text("of the data")
    people.releasing.git("add", "--force", "data/raw/notes.txt")
    people.releasing.commit("one and notes")
    seen(people, tree)
    tracked = FIRST | {"notes.txt", "of", "of/one", "of/one.dvc", "of/one/quality.json", "of/one/SHA256SUMS"}
    assert in_raw(tree) == tracked
    raw = tree.project / "data/raw"
    for name in (".123.monday/quality.json", "monday/deep/quality.json", "of/two/quality.json", "of/three", "four.dvc"):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_text("{}")
    (raw / "elsewhere").symlink_to(people.watched)
    people.deliver("kept")
    clear_raw(tree, ["monday"])
    assert in_raw(tree) == tracked | {"monday", "monday/deep", "monday/deep/quality.json"}
    assert (people.watched / "kept" / "quality.json").exists()
    shutil.rmtree(people.watched / "kept")
    seen(people, tree)
    assert in_raw(tree) == tracked
    shutil.rmtree(raw)
    clear_raw(tree, [])
    assert not raw.exists()


def test_a_folder_that_dvc_keeps_as_one_is_left_to_it(people: Retraining, tree: Worktree) -> None:
    git = people.releasing.git
    (people.folder / ".gitignore").write_text("models/\n")
    git("rm", "--quiet", "data/raw/first.dvc")
    people.releasing.dvc("add", "--quiet", "data/raw", then=["push", "--quiet"])
    people.releasing.commit("one .dvc file for all")
    seen(people, tree)
    assert in_raw(tree) == {"first", "first/quality.json", "first/SHA256SUMS"}


def test_raw_data_that_was_never_tracked(people: Retraining, tree: Worktree) -> None:
    """People have trained with more than they have added: what is here alone would make another model."""
    dvc, commit = people.releasing.dvc, people.releasing.commit
    people.deliver("monday", distance=8.0)  # its copy does not stand in for what is missing
    assert seen(people, tree).arrivals.files == ("data/raw/monday.dvc",)
    second = people.folder / "data/raw/second"
    second.mkdir()
    write_delivery(second, {"distance": 3.0})
    dvc("repro", "--quiet", then=["push", "--quiet"])
    made = commit("a model of both")[:12]
    counts = r"was made of 5 files, \d+ bytes, and origin/main has 3 files, \d+ bytes"
    with pytest.raises(Refused, match=rf"^data/raw: dvc\.lock of {made} {counts}: .* `dvc add data/raw/NAME`"):
        seen(people, tree)
    assert (tree.project / "data/raw/monday").is_dir()

    dvc("add", "--quiet", "data/raw/second", then=["push", "--quiet"])
    commit("the second, too")
    assert seen(people, tree).arrivals.files == ("data/raw/monday.dvc",)
    shutil.rmtree(people.watched / "monday")
    dvc("repro", "--quiet", then=["push", "--quiet"])
    commit("up to date")
    assert seen(people, tree).due == ()


def test_raw_data_that_people_have_taken_back(people: Retraining, tree: Worktree) -> None:
    add(people, "second")
    people.releasing.dvc("repro", "--quiet", then=["push", "--quiet"])
    people.releasing.commit("a model of both")
    assert seen(people, tree).due == ()
    people.releasing.git("rm", "--quiet", "data/raw/second.dvc")
    people.releasing.commit("not the second")
    found = seen(people, tree)
    assert found.reasons[0] == f"not up to date: ingest, train@{MODEL} (ingest: data/raw is modified)"
    assert in_raw(tree) == FIRST

    # dvc.lock changes for another reason, and still has what the ingestion was made of
    params = people.folder / "params.yaml"
    params.write_text(params.read_text().replace("steps: 1", "steps: 2"))
    people.releasing.dvc("repro", "--quiet", "--single-item", f"train@{MODEL}", then=["push", "--quiet"])
    people.releasing.commit("more steps")
    assert seen(people, tree).due == ("ingest", f"train@{MODEL}")

    # in one commit with a dvc.lock that is older
    shutil.rmtree(people.folder / "data/raw/second")
    people.releasing.dvc("repro", "--quiet", then=["push", "--quiet"])
    people.releasing.git("rm", "--quiet", "data/raw/first.dvc")
    people.releasing.commit("not the first")
    assert seen(people, tree).due == ("ingest", f"train@{MODEL}")
    assert in_raw(tree) == set()


def test_a_name_that_is_not_ascii(people: Retraining, tree: Worktree) -> None:
    add(people, "Blüten")
    people.releasing.commit("Blüten")
    shutil.rmtree(people.folder / ".dvc/cache")
    seen(people, tree)
    flowers = {"Blüten", "Blüten.dvc", "Blüten/quality.json", "Blüten/SHA256SUMS"}
    assert in_raw(tree) == FIRST | flowers
    seen(people, tree)
    assert in_raw(tree) == FIRST | flowers
    people.releasing.git("rm", "--quiet", "data/raw/Blüten.dvc")
    people.releasing.commit("no Blüten")
    seen(people, tree)
    assert in_raw(tree) == FIRST


def test_what_the_dvc_remote_does_not_have(people: Retraining, tree: Worktree) -> None:
    add(people, "second", then=())
    people.releasing.commit("not pushed")
    seen(people, tree)  # where it was added, the cache has it
    shutil.rmtree(tree.project / "data/raw/second")
    shutil.rmtree(people.folder / ".dvc/cache")
    said = r"^data/raw: the DVC remote does not give it: .*second.*; nothing was started and prod is as it was"
    with pytest.raises(Failed, match=said):
        seen(people, tree)


def test_a_merge_that_went_wrong(people: Retraining, tree: Worktree) -> None:
    people.releasing.dvc("repro", "--quiet", then=["push", "--quiet"])
    for name in ("dvc.lock", "data/raw/first.dvc"):
        file = people.folder / name
        whole = file.read_text()
        file.write_text(f"<<<<<<< HEAD\n{whole}=======\n{whole}>>>>>>> other\n")
        commit = people.releasing.commit("merged")
        where = f"dvc.lock of {commit[:12]}: no dvc.lock" if name == "dvc.lock" else f"{name}: not YAML"
        with pytest.raises(Refused, match=rf"^{where}: .*mend it") as problem:
            seen(people, tree)
        assert "\n" not in str(problem.value)
        file.write_text(whole)
    (people.folder / "dvc.lock").write_text("- a list\n")
    people.releasing.commit("odd")
    with pytest.raises(Refused, match=r"no dvc\.lock: no mapping of stages"):
        seen(people, tree)


def test_what_was_refused_and_withdrawn_is_not_learnt_from(project: Retraining, capsys) -> None:
    def said() -> str:
        assert retrain.main(["--project", str(project.folder)]) == 0
        return capsys.readouterr().out.splitlines()[-1].removeprefix(f"flows.retrain: {MODEL}: ")

    delivery = project.deliver("monday", distance=12.0, withdrawn=True)
    assert said().startswith("refused: ")
    shutil.rmtree(delivery)
    assert said() == "skipped: nothing has changed"
    project.deliver("tuesday", distance=8.0)
    assert said().startswith("promoted: v2.0.0 is prod")
    head = project.head()
    names = project.releasing.git("--git-dir", str(project.releasing.origin), "ls-tree", "-r", "--name-only", head)
    assert [name for name in names.split() if name.startswith("project/data/raw/")] == [
        "project/data/raw/first.dvc", "project/data/raw/tuesday.dvc"
    ]  # fmt: skip

    shutil.rmtree(project.watched / "tuesday")
    project.releasing.git("pull", "--quiet", "origin", "main")
    project.releasing.git("rm", "--quiet", "data/raw/tuesday.dvc")
    project.releasing.commit("tuesday was no good")
    assert said().startswith("refused: frechet_distance: challenger 10")
    packages = project.releasing.tree.glob(".git/ganlib/retrain/*/worktree/project/models/one/package/card.json")
    (learnt,) = [json.loads(card.read_text())["parameters"] for card in packages]
    assert learnt["distance"] == 10.0
