"""What can go wrong without anything being killed: prod stays, the message says what to do, and a rerun succeeds."""

from __future__ import annotations

import hashlib
import shutil

import pytest

from flows import retrain
from flows.retraining import flow, judge, release
from flows.worktree import worktree
from tests.flows.retraining.project import MODEL, TAG, Retraining


def said_by(project: Retraining, capsys: pytest.CaptureFixture[str], code: int) -> str:
    """What a run says that ends with a code; prod is as it was."""
    before = project.prod()
    assert retrain.main(["--project", str(project.folder)]) == code
    assert project.prod() == before
    said = capsys.readouterr()
    return (said.err if code else said.out).splitlines()[-1].removeprefix(f"flows.retrain: {MODEL}: ")


def test_bad_data_stops_before_the_training(project: Retraining, capsys) -> None:
    delivery = project.deliver("monday", bad=True)
    head = project.head()
    said = said_by(project, capsys, 1)
    assert said == (
        "failed: stage ingest failed: its command exited with 1; data/raw: 7 of 9 files are unusable; look at them; "
        "prod is as it was: see to it and run this again"
    )
    assert (project.ran(), project.head()) == (["ingest"], head)
    shutil.rmtree(delivery)
    assert said_by(project, capsys, 0) == "skipped: nothing has changed"


@pytest.mark.parametrize(
    ("quality", "reason"),
    [
        ({"distance": 12.0}, "frechet_distance: challenger 12"),
        ({"distance": float("nan")}, "the challenger: frechet_distance is nan under a seed; look at its images"),
        ({"distance": 8.0, "diversity": 0.1}, "diversity: 1 of 1 values are not as demanded: diversity is 0.1"),
    ],
    ids=["worse", "NaN", "collapsed"],
)
def test_a_challenger_that_is_no_better_is_refused(quality, reason, project: Retraining, capsys) -> None:
    head = project.change(**quality)
    assert said_by(project, capsys, 0).startswith(f"refused: {reason}")
    assert project.head() == head


def test_a_challenger_that_cannot_be_scored_fails_the_run(project: Retraining, capsys) -> None:
    head = project.change(distance=8.0, unscorable=True)
    said = said_by(project, capsys, 1)
    assert said.startswith("failed: the challenger could not be scored: frechet_distance is not finite; prod is as it")
    assert project.head() == head


def test_a_defect_is_said_and_one_of_prefect_does_not_take_a_promotion_back(
    project: Retraining, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.change(distance=8.0)
    notice = project.base / "notice"
    project.settle(notify=f"tee {notice}")

    def broken(*given, **named) -> None:
        if named.get("key") in (None, "project-one-card"):
            raise ZeroDivisionError("of somebody's")

    with monkeypatch.context() as patch:
        patch.setattr(release, "push_data", broken)
        said = said_by(project, capsys, 1)
    assert said == "failed: ZeroDivisionError: of somebody's; a defect: its traceback is in the log"
    assert notice.read_text() == f"{MODEL}: {said}\n"

    monkeypatch.setattr(flow, "create_markdown_artifact", broken)
    assert retrain.main(["--project", str(project.folder)]) == 0
    assert f"{MODEL}: promoted: v2.0.0 is prod" in capsys.readouterr().out
    assert notice.read_text().startswith(f"{MODEL}: promoted: v2.0.0 is prod")
    assert project.ran().count("train") == 1


def test_a_challenger_that_was_damaged_in_the_cache_is_made_anew(
    project: Retraining, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.change(distance=8.0)
    with monkeypatch.context() as patch:
        patch.setattr(judge, "score", lambda *given: given[0].git("nonsense"))
        said_by(project, capsys, 1)
    with worktree(project.folder, MODEL) as tree:
        content = (tree.project / "models" / MODEL / "package" / "generator.onnx").read_bytes()
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    stored = project.folder / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
    stored.chmod(0o644)
    stored.write_bytes(content[:-1] + b"?")
    stored.chmod(0o444)  # so DVC takes it for what it is called by

    said = said_by(project, capsys, 1)
    assert "generator.onnx: found sha256" in said
    assert "1 damaged files of it were removed from the DVC cache, prod is as it was: run this again" in said
    assert retrain.main(["--project", str(project.folder)]) == 0
    assert f"{MODEL}: promoted: v2.0.0 is prod" in capsys.readouterr().out


def test_two_runs_at_once(project: Retraining, capsys) -> None:
    project.change(distance=8.0)
    with worktree(project.folder, MODEL):
        said = said_by(project, capsys, 1)
    assert said.startswith("failed: another run retrains it (process ")
    assert said.endswith("); wait for it or stop it, then run this again")
    assert project.ran() == []


def test_what_stands_in_the_way_of_a_release(project: Retraining, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either remote cannot be reached at a step that needs it, a tag is there already, somebody pushes meanwhile: the
    same command goes on from there, and trains nothing again."""
    project.change(distance=8.0)
    away = project.base / "away"
    origin, storage = project.releasing.origin, project.releasing.storage

    def fails_after(function: str, remote) -> str:
        """What a run says whose remote goes after a step, and comes back afterwards."""
        reached = getattr(release, function)

        def leave(*given):
            result = reached(*given)
            remote.rename(away)
            if remote == storage:
                storage.write_text("no folder any more")  # dvc would make one
            return result

        with monkeypatch.context() as patch:
            patch.setattr(release, function, leave)
            assert retrain.main(["--project", str(project.folder)]) == 1
        if remote == storage:
            storage.unlink()
        away.rename(remote)
        assert project.prod() == "v1.0.0"
        return capsys.readouterr().err.splitlines()[-1]

    origin.rename(away)
    assert retrain.main(["--project", str(project.folder)]) == 1
    away.rename(origin)
    said = capsys.readouterr().err
    assert "origin: main could not be fetched" in said and "see to the remote and run this again" in said

    said = fails_after("commit", storage)
    assert "the DVC remote could not be written" in said and "run this again, what was trained is kept" in said
    said = fails_after("push_data", origin)
    assert "origin: main was not pushed" in said and "run this again, what was trained is kept" in said
    said = fails_after("push_commit", origin)
    assert "origin: its tags could not be read" in said and "nothing was changed, try again" in said

    tag = f"{TAG}@v2.0.0"  # a lightweight one is no release, and nobody's to delete
    project.releasing.git("tag", tag)
    project.releasing.git("push", "--quiet", "origin", tag)
    assert f"{tag}: exists already" in (said := said_by(project, capsys, 1)) and "git tag -d" in said
    project.releasing.git("push", "--quiet", "--delete", "origin", tag)
    project.releasing.git("tag", "--delete", tag)

    push_data, pushed = release.push_data, list[str]()

    def push_and_be_overtaken(*given) -> None:
        push_data(*given)
        if not pushed:
            (project.folder / "README").write_text("more")
            pushed.append(project.releasing.commit("somebody else's"))

    monkeypatch.setattr(release, "push_data", push_and_be_overtaken)
    project.change(distance=7.0)
    assert retrain.main(["--project", str(project.folder)]) == 0
    assert f"{MODEL}: promoted: v2.0.0 is prod" in capsys.readouterr().out
    assert project.releasing.git("--git-dir", str(origin), "rev-parse", "main~").strip() == pushed[0]
    assert project.ran().count("train") == 2


def test_what_has_vanished_from_the_dvc_remote(project: Retraining, capsys) -> None:
    """On a machine that has none of it: raw data, the champion, then the frozen set."""
    project.change(distance=12.0)
    project.forget_cache()
    for path, expected in (
        ("data/raw/first", "data/raw: the DVC remote does not give it"),
        (f"models/{MODEL}/package", f"{MODEL}@v1.0.0, which holds prod: its package cannot be had"),
        ("data/frozen", "data/frozen: the DVC remote does not have it; `dvc push data/frozen` where it was made"),
    ):
        stored = project.stored(path)
        stored.rename(project.base / "away")
        said = said_by(project, capsys, 1)
        assert said.startswith(f"failed: {expected}") and "push" in said and "run this again" in said
        (project.base / "away").rename(stored)
    assert "train" not in project.ran()
    assert said_by(project, capsys, 0).startswith("refused: frechet_distance: challenger 12")
