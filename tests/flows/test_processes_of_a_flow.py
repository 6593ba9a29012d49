from __future__ import annotations

import os
import signal
import threading

import pytest

from flows.dvc import Processes, StageFailed, Stopped


def run(project, stage: str, processes: Processes | None = None):
    lines: list[str] = []
    processes = processes or Processes()
    with processes.accepting():
        return processes.run(stage, project.folder, lines.append), lines


def test_a_stage_runs_once_and_its_lines_are_passed_on(project) -> None:
    outcome, lines = run(project, "source")
    assert outcome.ran and outcome.stage == "source"
    assert "source begins" in lines
    assert (project.folder / "data/source").read_text() == "raw\nsource"
    assert not any("dvc push" in line or "git add" in line for line in lines)
    again, _ = run(project, "source")
    assert not again.ran
    assert project.ran() == ["source"]


def test_a_result_from_the_cache_counts_as_not_run(project) -> None:
    run(project, "source")
    project.write("raw.txt", "other\n")
    assert run(project, "source")[0].ran
    project.write("raw.txt", "raw\n")
    assert not run(project, "source")[0].ran
    assert (project.folder / "data/source").read_text() == "raw\nsource"


def test_a_failed_stage_says_why(project) -> None:
    project.let("one", "fail")
    run(project, "source")
    with pytest.raises(StageFailed, match="stage train@one failed: its command exited with 3") as caught:
        run(project, "train@one")
    assert caught.value.code == 3
    assert not caught.value.busy
    assert "the reason" in caught.value.tail


def test_what_dvc_itself_refuses_is_the_reason(project) -> None:
    with pytest.raises(StageFailed, match="Stage 'nix' not found") as caught:
        run(project, "nix")
    assert caught.value.code is None
    assert not caught.value.busy


def test_a_lock_that_another_dvc_holds_is_told_from_a_failure() -> None:
    busy = [
        "ERROR: Unable to acquire lock. Most likely another DVC process is running or was terminated abruptly.",
        "ERROR: '/p/data' is busy, it is being blocked by:",
    ]
    assert all(StageFailed("train", [line]).busy for line in busy)
    assert not StageFailed("train", [busy[1], "ERROR: failed to run: python stage.py, exited with 255"]).busy


def test_leaving_the_block_stops_all(project, eventually, running) -> None:
    project.let("one", "sleep")
    run(project, "source")
    project.forget()
    processes = Processes()
    caught: list[BaseException] = []

    def in_a_thread() -> None:
        try:
            processes.run("train@one", project.folder, lambda line: None)
        except Stopped as error:
            caught.append(error)

    thread = threading.Thread(target=in_a_thread)
    with processes.accepting():
        thread.start()
        assert eventually(lambda: len(project.processes()) == 2)
        assert all(running(process) for process in project.processes())
    assert not any(running(process) for process in project.processes())
    thread.join()
    assert [str(error) for error in caught] == ["stage train@one was stopped"]
    with pytest.raises(Stopped, match="stage train@one was not started"):
        processes.run("train@one", project.folder, lambda line: None)
    assert project.ran() == ["train@one"]


def test_an_exception_while_a_stage_runs_stops_it(project, eventually, running) -> None:
    project.let("one", "sleep")
    run(project, "source")
    project.forget()

    def interrupt(line: str) -> None:
        if line == "train@one begins":
            raise KeyboardInterrupt

    processes = Processes()
    with processes.accepting():
        with pytest.raises(KeyboardInterrupt):
            processes.run("train@one", project.folder, interrupt)
        assert len(project.processes()) == 2
        assert not any(running(process) for process in project.processes())


def test_a_killed_dvc_takes_its_stage_along(project, eventually, running) -> None:
    project.let("one", "sleep")
    run(project, "source")
    project.forget()

    def kill(line: str) -> None:
        if line == "train@one begins":
            os.kill(project.processes()[1], signal.SIGKILL)

    processes = Processes()
    with processes.accepting(), pytest.raises(StageFailed):
        processes.run("train@one", project.folder, kill)
    assert not any(running(process) for process in project.processes())
