"""Whatever is killed, and wherever: prod stays, and the same command goes on from there."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from flows import retrain
from tests.flows.retraining.dying import Dying
from tests.flows.retraining.project import MODEL, Retraining

# What a run was doing last when it was killed, and whether others see the new model then.
STEPS = [
    ("flows.retraining.look:fetch", False),
    ("flows.retraining.judge:score", False),
    ("flows.retraining.release:push_data", False),
    ("flows.retraining.release:push_commit", False),
    ("flows.registry:_register", False),
    ("flows.registry:push_tags", True),
]


@pytest.fixture(scope="module")
def dying(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dying]:
    program = Dying(tmp_path_factory.mktemp("dying") / "said", server)
    yield program
    program.stop()


def test_killed_after_any_step_it_goes_on(project: Retraining, dying: Dying, capsys) -> None:
    project.change(distance=8.0)
    notice = project.base / "notice"
    project.settle(notify=f"tee -a {notice}")
    for step, published in STEPS:
        assert dying.run(project, after=step) == -signal.SIGKILL, step
        assert project.prod() == ("v2.0.0" if published else "v1.0.0"), step
    assert project.ran().count("train") == 1  # and what was trained was never lost
    assert retrain.main(["--project", str(project.folder)]) == 0
    assert capsys.readouterr().out == f"flows.retrain: {MODEL}: skipped: nothing has changed\n"
    told = notice.read_text()
    assert told.startswith(f"{MODEL}: promoted: ") and told.endswith(" (by a run that was cut off then)\n")
    assert told.count("\n") == 1
    assert project.prod() == "v2.0.0"


def test_killed_while_it_trains_no_process_is_left_and_it_goes_on(
    project: Retraining, dying: Dying, eventually, running, capsys
) -> None:
    """The flow, dvc, and the training; at last the disk is full."""
    project.change(distance=8.0)
    head = project.head()
    for killed in ("flow", "dvc", "training"):
        dying.forget()
        project.sleeps("train")
        flow = dying.start(project)
        while "train sleeps" not in dying.said():
            assert running(flow), dying.said()
            time.sleep(0.05)
        stage, above = project.last_process()
        os.kill({"flow": flow, "dvc": above, "training": stage}[killed], signal.SIGKILL)
        assert dying.wait() == (-signal.SIGKILL if killed == "flow" else 1)
        assert eventually(lambda left=(stage, above): not any(map(running, left)))
        if killed != "flow":
            assert f"{MODEL}: failed: stage train@{MODEL} failed" in dying.said().splitlines()[-1]
        assert (project.prod(), project.head()) == ("v1.0.0", head)

    assert dying.run(project, limit=1_000_000) == 1  # the weights have more
    last = dying.said().splitlines()[-1]
    assert "File too large; prod is as it was: see to it and run this again" in last
    assert (project.prod(), project.head()) == ("v1.0.0", head)

    assert retrain.main(["--project", str(project.folder)]) == 0
    assert "promoted: v2.0.0 is prod" in capsys.readouterr().out
