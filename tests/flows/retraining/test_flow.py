"""From new data to a promoted model, on real remotes and a real Prefect server."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter
from prefect.client.schemas.sorting import FlowRunSort

from flows import retrain
from flows.registry import history
from ganlib.inference.registry import resolve
from tests.flows.retraining.project import ARTIFACT, MODEL, TAG, Retraining


def last_state() -> tuple[str, str]:
    """Name and message of the state that the last retraining ended in."""
    with get_client(sync_client=True) as client:
        run = client.read_flow_runs(
            flow_filter=None, flow_run_filter=FlowRunFilter(), sort=FlowRunSort.START_TIME_DESC, limit=1
        )[0]
    return run.state.name, run.state.message


def artifact(key: str) -> str:
    """The latest artifact under a key."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key={"any_": [key]}), limit=200)
    return max(found, key=lambda one: one.created).data


def test_new_data_that_makes_a_better_model_is_promoted(project: Retraining, capsys, tmp_path) -> None:
    project.releasing.git("tag", "--annotate", "--message", "of a run that was cut off", f"{TAG}@v2.0.0")
    project.settle(notify=f"tee {tmp_path / 'notice'}", warm=True)
    before = project.releasing.git("status", "--porcelain")
    delivery = project.deliver("monday", distance=8.0)
    assert retrain.main(["--project", str(project.folder)]) == 0
    said = capsys.readouterr().out
    assert f"flows.retrain: {MODEL}: promoted: v2.0.0 is prod: frechet_distance" in said
    assert project.ran() == ["ingest", "train", "score", "score"]

    origin, head = project.releasing.origin, project.head()
    assert project.prod() == "v2.0.0"
    events = [(event.what, event.version, event.stage) for event in history(project.folder, MODEL)]
    assert events[:3] == [
        ("assigned", "v2.0.0", "challenger"), ("assigned", "v2.0.0", "prod"), ("registered", "v2.0.0", None)
    ]  # fmt: skip
    package = resolve(f"{ARTIFACT}@prod", str(project.releasing.tree), tmp_path / "cache")
    learnt = json.loads((package / "card.json").read_text())["parameters"]
    assert learnt["distance"] == 8.0
    assert json.loads(learnt["began"])["distance"] == 10.0  # warm: the champion's weights

    show = lambda name: project.releasing.git("--git-dir", str(origin), "show", f"{head}:project/{name}")  # noqa: E731
    assert yaml.safe_load(show("data/raw/monday.dvc"))["meta"]["manifest"]
    assert json.loads(show(f"reports/{MODEL}/metrics.json")) == {"frechet_distance": 8.0}
    start = yaml.safe_load(show("params.yaml"))["train"][MODEL]["start_from"]
    assert start.startswith(f"models/champions/{MODEL}-v1.0.0-")
    assert yaml.safe_load(show("dvc.lock"))["stages"][f"train@{MODEL}"]["params"]["params.yaml"] == {
        f"train.{MODEL}": {"start_from": start, "steps": 1}
    }
    changed = project.releasing.git("--git-dir", str(origin), "diff", "--name-only", f"{head}~", head).split()
    changed = [name.removeprefix("project/") for name in changed]
    assert changed == [
        "data/raw/monday.dvc", "dvc.lock", "params.yaml", f"reports/{MODEL}/metrics.json"
    ]  # fmt: skip
    assert "data/raw/monday.dvc: delivered, 2 files" in project.releasing.git("--git-dir", str(origin), "log", "-1")

    assert project.releasing.git("status", "--porcelain") == before  # people's own working tree
    assert delivery.is_dir()
    assert last_state()[0] == "Promoted"
    decision = artifact("project-one-decision")
    assert "**Promoted**" in decision and "champion: v1.0.0" in decision and "| frechet_distance |" in decision
    assert "delivered, 2 files" in artifact("project-one-data")
    assert artifact("project-one-card").startswith(f"{ARTIFACT}@v2.0.0, commit {head[:12]}\n\n# {MODEL}\n")
    assert (tmp_path / "notice").read_text().startswith(f"{MODEL}: promoted: v2.0.0 is prod")


def test_without_a_change_nothing_starts(project: Retraining, capsys) -> None:
    assert retrain.main(["--project", str(project.folder)]) == 0
    assert capsys.readouterr().out == f"flows.retrain: {MODEL}: skipped: nothing has changed\n"
    assert project.ran() == []
    assert last_state() == ("Skipped", f"{MODEL}: skipped: nothing has changed")


def test_without_a_change_and_a_server_none_is_started(project: Retraining, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL")
    program = (
        "import sys; from flows import retrain; code = retrain.main(['--project', sys.argv[1]]); "
        "assert 'prefect' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(project.folder)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"flows.retrain: {MODEL}: skipped: nothing has changed\n"), done.stderr


def test_what_is_wrong_with_the_settings_is_the_runs_message(project: Retraining) -> None:
    """As a run that was started from Prefect's page ends."""
    from flows.retraining.flow import retrain as flow

    (project.folder / "retrain.yaml").unlink()
    state = flow(project=project.folder, return_state=True)
    assert state.is_failed()
    assert "retrain.yaml: no such file; write one with at least `gate: {MODEL: {floor: VALUE}}`" in last_state()[1]


def test_an_equal_model_is_refused_and_not_trained_again(project: Retraining, capsys) -> None:
    head = project.change(distance=10.0, more=1)
    assert retrain.main(["--project", str(project.folder)]) == 0
    assert "refused: frechet_distance: challenger 10" in capsys.readouterr().out
    assert (project.prod(), project.head()) == ("v1.0.0", head)
    assert last_state()[0] == "Refused"
    assert "**Not promoted**" in artifact("project-one-decision")
    ran = project.ran()

    assert retrain.main(["--project", str(project.folder)]) == 0
    said = capsys.readouterr().out
    assert "skipped: the same was refused at" in said and "--force judges it again" in said
    assert last_state()[0] == "Skipped"
    assert retrain.main(["--project", str(project.folder), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "champion v1.0.0" in said and f"not up to date: train@{MODEL}" in said and "the same was refused" in said
    assert project.ran() == ran

    (project.folder / "README").write_text("more")
    project.releasing.commit("a change of something else")
    assert retrain.main(["--project", str(project.folder)]) == 0
    assert "skipped: the same was refused at" in capsys.readouterr().out
    assert project.ran() == ran  # from the cache, and known by what it is
