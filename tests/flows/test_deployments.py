"""prefect.yaml at a real Prefect server, its runs by real workers: on schedule, on an event, elsewhere, and killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from flows.launcher import end_group, launch

ROOT = Path(__file__).parents[2]
FILE = ROOT / "prefect.yaml"

# Runs of a flow with the parameters of the real one, in the place of the real one: they note where they ran.
TINY = """
import json, os, pathlib, time
from prefect import flow

@flow(name="retrain")
def retrain(models: list[str] | None = None, project: pathlib.Path = pathlib.Path(), force: bool = False) -> None:
    note = {"folder": os.getcwd(), "models": models, "process": os.getpid()}
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(json.dumps(note) + "\\n")
    while models == ["forever"] and os.getppid() != 1:  # nobody's: the test has failed
        time.sleep(1)
"""


class Place:
    """A Prefect server with projects and workers around it.

    Attributes:
        folder: for all of it.
        environment: variables of programs that speak to the server.
        client: speaks to it.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        address = f"http://127.0.0.1:{port}/api"
        self.environment = {
            **os.environ,
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": address,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "NOTES": str(folder / "notes"),
        }
        self.client = httpx.Client(base_url=address, timeout=30.0)

    def ask(self, method: str, path: str, **fields: object) -> httpx.Response:
        """The server's answer; once more where its database was locked, which undoes what it was at."""
        for _ in range(20):
            answer = self.client.request(method, path, json=fields or None)
            if answer.status_code != 503:
                break
            time.sleep(0.5)
        assert answer.is_success, answer.text
        return answer

    def read(self, path: str) -> Any:
        return self.ask("POST" if path.endswith("filter") else "GET", path).json()

    def change(self, path: str, **fields: object) -> None:
        self.ask("PATCH", path, **fields)

    def queues(self) -> Any:
        return self.read("/work_pools/machines/queues/filter")

    def deployments(self) -> dict[str, Any]:
        flows = {flow["id"]: flow["name"] for flow in self.read("/flows/filter")}
        return {f"{flows[one['flow_id']]}/{one['name']}": one for one in self.read("/deployments/filter")}

    def deploy(self, file: Path, folder: Path = ROOT) -> str:
        """`python -m flows.deployments`, run in a folder."""
        command = [sys.executable, "-m", "flows.deployments", "--file", str(file)]
        ended = subprocess.run(
            command, cwd=folder, env=self.environment, capture_output=True, text=True, timeout=80, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def deploy_tiny(self, project: Path) -> None:
        """Have the tiny flow in the place of the retraining, if it is not there."""
        if self.deployments()["retrain/nightly"]["entrypoint"] != "tiny.retrain":
            self.deploy(like_ours(project, interval=86400), project)

    def completed(self, kind: str) -> bool:
        """Whether a run that was started so has come to its end, and none is under way."""
        runs = [(run["created_by"]["type"], run["state_type"]) for run in self.read("/flow_runs/filter")]
        return (kind, "COMPLETED") in runs and not {"PENDING", "RUNNING"} & {state for _, state in runs}

    def run(self, models: list[str]) -> str:
        """Ask for a run, and give its id."""
        deployment = self.deployments()["retrain/nightly"]["id"]
        path = f"/deployments/{deployment}/create_flow_run"
        return str(self.ask("POST", path, parameters={"models": models}, state={"type": "SCHEDULED"}).json()["id"])

    def state(self, run: str) -> tuple[str, str]:
        state = self.read(f"/flow_runs/{run}")["state"]
        return state["type"], state["message"] or ""

    def notes(self) -> list[dict[str, Any]]:
        notes = self.folder / "notes"
        return [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []

    @contextmanager
    def worker(self, project: Path) -> Iterator[subprocess.Popen[str]]:
        """A worker as docs/deployment.md has it, for a project's folder."""
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "machines", "--type", "process"]
        environment = {**self.environment, "GANLIB_PROJECT": str(project)}
        elsewhere = self.folder / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        with (self.folder / "worker.log").open("wb") as log:
            process = launch(command, grace=10.0, environment=environment, folder=elsewhere, out=log)
            try:
                yield process
            finally:
                process.terminate()
                end_group(process, 10.0)

    def said(self) -> str:
        """By the worker, and what became of all runs."""
        runs = [(run["name"], run["state_type"], run["created_by"]["type"]) for run in self.read("/flow_runs/filter")]
        return f"{(self.folder / 'worker.log').read_text(errors='replace')[-3000:]}\n{runs}"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def until(condition: Callable[[], object], seconds: float, why: Callable[[], object]) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, why()
        time.sleep(0.1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    port = free_port()
    place = Place(tmp_path_factory.mktemp("place"), port)
    command = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--no-ui",
    ]
    with (place.folder / "server.log").open("wb") as log:
        process = launch(command, grace=5.0, environment=place.environment, out=log)
        try:

            def answers() -> bool:
                try:
                    return place.client.get("/health").status_code == 200
                except httpx.TransportError:
                    assert process.poll() is None, (place.folder / "server.log").read_text()
                    return False

            until(answers, 120, lambda: (place.folder / "server.log").read_text())
            yield place
        finally:
            place.client.close()
            process.terminate()
            end_group(process, 5.0)


def git(folder: Path, *arguments: str) -> None:
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a"}
    subprocess.run(["git", *arguments], cwd=folder, check=True, env=os.environ | who, capture_output=True)


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A project with a flow of its own, and a fresh clone of it elsewhere."""
    base = tmp_path_factory.mktemp("projects")
    first, clone = base / "first", base / "machine" / "clone"
    first.mkdir()
    (first / "dvc.yaml").write_text("stages: {}\n")
    (first / "tiny.py").write_text(TINY)
    git(first, "init", "--quiet")
    git(first, "add", "--all")
    git(first, "commit", "--quiet", "--message", "a project")
    git(base, "clone", "--quiet", str(first), str(clone))
    return first, clone


def like_ours(folder: Path, interval: int) -> Path:
    """prefect.yaml with the tiny flow in the place of the retraining, every so many seconds."""
    content = yaml.safe_load(FILE.read_text())
    (nightly,) = [one for one in content["deployments"] if one["name"] == "nightly"]
    content["deployments"] = [nightly | {"entrypoint": "tiny.retrain"}]
    schedule = {"interval": interval, "slug": nightly["schedules"][0]["slug"]}
    content["deployments"][0]["schedules"] = [schedule]
    file = folder / "prefect.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture(scope="module")
def deployed(place: Place) -> dict[str, Any]:
    """What the server has after `python -m flows.deployments`, by name."""
    place.deploy(FILE)
    return place.deployments()


def test_all_that_prefect_yaml_says_is_deployed(place: Place, deployed: dict[str, Any]) -> None:
    assert deployed.keys() == {"retrain/nightly", "pipeline/by-hand", "batch-job/by-hand"}
    for one in deployed.values():
        assert one["work_pool_name"] == "machines"
        assert one["description"]
        assert one["job_variables"]["env"] == {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
        asked = one["parameter_openapi_schema"]["properties"]
        assert all(parameter["description"] for parameter in asked.values()), asked
    (schedule,) = deployed["retrain/nightly"]["schedules"]
    assert schedule["schedule"]["cron"] == "0 3 * * *"
    assert schedule["active"]
    asked = deployed["batch-job/by-hand"]["parameter_openapi_schema"]
    assert asked["required"] == ["package", "requests", "out"]
    assert asked["properties"]["device"]["enum"] == ["auto", "cpu", "cuda"]
    assert asked["properties"]["truncation"]["exclusiveMinimum"] == 0
    limits = {queue["name"]: queue["concurrency_limit"] for queue in place.queues()}
    assert limits == {"default": None, "training": 1, "batch": None}
    automations = {one["name"]: one for one in place.read("/automations/filter")}
    assert automations.keys() == {"data has landed", "ganlib: runs whose process is gone"}
    (action,) = automations["data has landed"]["actions"]
    assert action["deployment_id"] == deployed["retrain/nightly"]["id"]
    heartbeat = int(deployed["retrain/nightly"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    assert automations["ganlib: runs whose process is gone"]["trigger"]["within"] >= 5 * heartbeat


@pytest.mark.timeout(300, func_only=True)
def test_the_schedule_starts_runs_in_the_project_of_the_worker(
    place: Place, deployed: dict[str, Any], projects: tuple[Path, Path]
) -> None:
    first, _ = projects
    (training,) = (queue["id"] for queue in place.queues() if queue["name"] == "training")
    place.change(f"/work_queues/{training}", concurrency_limit=2)
    automations = [one["name"] for one in place.read("/automations/filter")]
    with place.worker(first):
        place.deploy(like_ours(first, interval=20), first)
        deployment = place.deployments()["retrain/nightly"]
        assert deployment["id"] == deployed["retrain/nightly"]["id"]  # deployed again, and nothing is there twice
        assert sorted(one["name"] for one in place.read("/automations/filter")) == sorted(automations)
        assert [queue["concurrency_limit"] for queue in place.queues() if queue["name"] == "training"] == [2]
        place.change(f"/work_queues/{training}", concurrency_limit=1)
        until(place.notes, 150, place.said)
        (schedule,) = deployment["schedules"]
        place.change(f"/deployments/{deployment['id']}/schedules/{schedule['id']}", active=False)
        until(lambda: place.completed("SCHEDULE"), 150, place.said)
    assert {note["folder"] for note in place.notes()} == {str(first)}


@pytest.mark.timeout(300, func_only=True)
def test_the_event_starts_a_run_which_the_worker_of_a_fresh_clone_takes(
    place: Place, deployed: dict[str, Any], projects: tuple[Path, Path]
) -> None:
    first, clone = projects
    place.deploy_tiny(first)
    with place.worker(clone):
        event = ["event", "emit", "data.landed", "--resource-id", "ganlib.data"]
        command = [sys.executable, "-m", "prefect", *event]
        subprocess.run(command, env=place.environment, check=True, capture_output=True, timeout=60)
        until(lambda: place.completed("AUTOMATION"), 150, place.said)
    assert str(clone) in {note["folder"] for note in place.notes()}


@pytest.mark.timeout(300, func_only=True)
def test_a_run_that_was_killed_with_its_worker_does_not_hold_up_the_queue(
    place: Place, deployed: dict[str, Any], projects: tuple[Path, Path]
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.deployments import end_the_dead

    first, _ = projects
    place.deploy_tiny(first)
    with temporary_settings({PREFECT_API_URL: str(place.client.base_url)}), get_client(sync_client=True) as client:
        end_the_dead(client, 10.0)

    def lives() -> list[int]:
        return [note["process"] for note in place.notes() if note["models"] == ["forever"]]

    with place.worker(first) as worker:
        killed = place.run(["forever"])
        until(lives, 150, place.said)
        next_one = place.run(["flowers"])
        os.killpg(worker.pid, signal.SIGKILL)
        os.kill(*lives(), signal.SIGKILL)
    with place.worker(first):
        time.sleep(3.0)
        assert place.state(killed)[0] == "RUNNING"  # nobody could say otherwise
        assert place.state(next_one)[0] == "SCHEDULED"
        until(lambda: place.state(killed)[0] == "CRASHED", 120, lambda: place.state(killed))
        until(lambda: place.state(next_one)[0] == "COMPLETED", 150, place.said)
    assert place.state(killed)[1].startswith("no sign of life for 10 s: its process is gone; run it again")
    assert place.state(next_one)[0] == "COMPLETED"


def test_a_worker_without_a_project_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.machine import enter_project
    from ganlib.problems import Refused

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GANLIB_PROJECT", raising=False)
    with pytest.raises(Refused, match="GANLIB_PROJECT: not set on this machine; start its worker with"):
        enter_project()
    monkeypatch.setenv("GANLIB_PROJECT", str(tmp_path))
    with pytest.raises(Refused, match=r"GANLIB_PROJECT: found .*, which has no dvc.yaml"):
        enter_project()
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "dvc.yaml").touch()
    monkeypatch.setenv("GANLIB_PROJECT", str(tmp_path / "project"))
    assert enter_project() == {"directory": str(tmp_path / "project")}
    assert Path.cwd() == tmp_path / "project"


def test_what_cannot_be_deployed_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.deployments import main

    assert main(["--file", str(tmp_path / "none.yaml")]) == 2
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert main(["--file", str(FILE)]) == 2
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}):
        assert main(["--file", str(FILE)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert (
        said[0] == f"flows.deployments: file: found {tmp_path / 'none.yaml'}, which is no file; expected prefect.yaml"
    )
    assert said[1].startswith("flows.deployments: PREFECT_API_URL: not set; `make up` starts a server")
    assert "does not answer as it should: " in said[2]
    assert len(said) == 3
