from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from flows import pipeline
from flows.dvc import Processes, StageFailed


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, error = process.communicate(timeout=120)
    return process.returncode, out, error


@pytest.fixture
def flow(server):
    """The flow, once a server is there for it."""
    from flows import graph

    return graph


def test_the_first_run_runs_all_and_a_second_nothing(project, flow, capsys) -> None:
    assert pipeline.main(["--project", str(project.folder), "--jobs", "2"]) == 0
    assert sorted(project.ran()) == ["report@one", "report@two", "source", "train@one", "train@two"]
    assert project.ran()[0] == "source"
    assert "up to date" in project.dvc("status").stdout
    capsys.readouterr()
    assert pipeline.main(["--project", str(project.folder)]) == 0
    assert capsys.readouterr().out == "Every stage is up to date: nothing to run.\n"
    assert len(project.ran()) == 5


def test_nothing_to_run_starts_no_prefect(project) -> None:
    assert project.dvc("repro").returncode == 0
    program = (
        "import sys; from flows import pipeline; code = pipeline.main(['--project', sys.argv[1]]); "
        "assert 'prefect' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(project.folder)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Every stage is up to date: nothing to run.\n", "")


def test_each_stage_is_a_task_run_named_after_it(project, flow) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter

    assert project.dvc("repro", "train@one").returncode == 0
    state = flow.pipeline(project.folder, return_state=True)
    assert state.is_completed()
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [state.state_details.flow_run_id]}))
    assert sorted(run.name for run in runs) == ["report@one", "report@two", "train@two"]
    assert all(run.state.is_completed() for run in runs)


def test_a_failed_stage_fails_the_run_and_spares_the_others(project, flow, capsys) -> None:
    project.let("one", "fail")
    assert pipeline.main(["--project", str(project.folder)]) == 1
    said = capsys.readouterr().err
    assert "flows.pipeline: stage train@one failed: its command exited with 3\n" in said
    assert "The last lines of train@one:\n" in said and "\n  the reason\n" in said
    assert "not started, for need of these: report@one\n" in said
    assert project.ran() == ["source", "train@one", "train@two", "report@two"]  # tried once, and the others went on


def test_a_stage_whose_files_another_dvc_holds_is_tried_again(project, flow, monkeypatch) -> None:
    """Another dvc begins the same stage after the plan was made; it ends when the flow has found it at work."""
    project.write("stage.py", (project.folder / "stage.py").read_text().replace("time.sleep(60)", "input()"))
    project.let("one", "sleep")
    assert project.dvc("repro", "source").returncode == 0
    found: list[StageFailed] = []
    others: list[subprocess.Popen[str]] = []

    class Contended(Processes):
        def run(self, stage, folder, report):
            if not others:
                command = [sys.executable, "-m", "dvc", "repro", "--single-item", "train@one"]
                pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
                others.append(subprocess.Popen(command, cwd=project.folder, **pipes))
                while "train@one begins" not in others[0].stdout.readline():
                    pass
            try:
                return super().run(stage, folder, report)
            except StageFailed as error:
                found.append(error)
                others[0].communicate("\n")
                raise

    monkeypatch.setattr(flow, "PROCESSES", Contended())
    state = flow.pipeline(project.folder, ["train@one"], return_state=True)
    assert [error.busy for error in found] == [True]
    assert others[0].returncode == 0
    assert state.is_completed()
    assert project.ran() == ["source", "train@one"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_flow(number, project, server, eventually, running, monkeypatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", server)
    assert project.dvc("repro", "source").returncode == 0
    project.let("one", "sleep")
    project.forget()
    process = project.start("train@one")
    assert eventually(lambda: len(project.processes()) == 2)
    process.send_signal(number)
    code, _, said = finish(process)
    if number == signal.SIGKILL:
        assert eventually(lambda: not any(running(below) for below in project.processes()))
    else:
        # Prefect hands SIGTERM on when it has ended the flow
        assert code == (-signal.SIGTERM if number == signal.SIGTERM else 1)
        interrupted = "flows.pipeline: interrupted, and no stage runs any more; the same command goes on from here\n"
        assert said.endswith(interrupted) or number == signal.SIGTERM
        assert not any(running(below) for below in project.processes())
    project.let("one", "write")
    assert project.dvc("repro", "train@one").returncode == 0  # nothing holds a lock or the stage's files


def test_a_dry_run_shows_the_plan_and_runs_nothing(project, capsys) -> None:
    assert project.dvc("repro", "train@one").returncode == 0
    project.forget()
    assert pipeline.main(["--project", str(project.folder), "--dry-run"]) == 0
    rows = [line.split(maxsplit=2) for line in capsys.readouterr().out.replace("up to date", "fresh").splitlines()]
    assert ["fresh", "train@one", "needs source"] in rows
    assert ["run", "train@two", "needs source"] in rows
    assert len(rows) == 5
    assert project.ran() == []


@pytest.mark.parametrize("arguments", [["nix"], ["--jobs", "0"], ["--jobs", "many"]])
def test_a_wrong_request_ends_with_code_2(project, arguments, capsys) -> None:
    try:
        code = pipeline.main(["--project", str(project.folder), *arguments])
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert capsys.readouterr().err.strip()
