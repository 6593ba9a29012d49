"""DVC seen from a flow: the plan in dvc.yaml, and its stages as processes that are streamed, watched and stopped.

This module holds the processes that run (`PROCESSES`). It has to be imported, and never be the file of a flow itself: a
served flow gets a second copy of that one.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from flows.launcher import end_group, launch
from ganlib.problems import Failed, Refused

GRACE = 20.0  # seconds that a stage is given to write a checkpoint, between SIGTERM and SIGKILL
TAIL = 15  # lines of a failed stage that are shown again at the end

SKIPPED = ("didn't change, skipping", "skipping run, checking out outputs")  # how dvc says that nothing was run
ADVICE = (  # what dvc says after every stage that has run
    "To track the changes with git, run:",
    "git add ",
    "To enable auto staging, run:",
    "dvc config core.autostage true",
    "Use `dvc push` to send your updates",
)

Plan = Mapping[str, tuple[str, ...]]


def read_plan(project: Path) -> Plan:
    """The stages of a project's dvc.yaml, and of others that they need, each with the stages that it needs directly.

    Needed stages stand before those that need them. A stage of another dvc.yaml is named as dvc names it in this
    project's folder, `../dvc.yaml:ingest`. Data tracked by itself (`data.dvc`) is no stage.

    Raises:
        Refused: where there is no plan or dvc cannot read it.
    """
    with _stages(project) as (graph, names):
        needs = {name: sorted(names[needed] for needed in graph.successors(stage)) for stage, name in names.items()}
    return {name: tuple(needs[name]) for name in TopologicalSorter(needs).static_order()}


def changed_stages(project: Path) -> set[str]:
    """The stages of `read_plan` whose command, settings, inputs or outputs differ from the last run.

    Raises:
        Refused: where there is no plan or dvc cannot read it.
        Failed: where another dvc is writing what would have to be read.
    """
    with _stages(project) as (_, names):
        return {name for stage, name in names.items() if stage.status()}


@contextlib.contextmanager
def _stages(project: Path) -> Iterator[tuple[Any, dict[Any, str]]]:
    """dvc's own graph (an edge from a stage to each that it needs) and the names of the stages that concern a project.

    Internal parts of dvc are used here and nowhere else; a test compares the result with `dvc dag --dot`.
    """
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo, lock_repo
    from dvc.scm import SCMError
    from dvc.stage import PipelineStage

    file = (project / "dvc.yaml").resolve()
    if not file.is_file():
        raise Refused(f"{project / 'dvc.yaml'}: no such file; run in a project's folder or name one with --project")
    try:
        with Repo(str(project), _wait_for_lock=True) as repo, lock_repo(repo):
            every = repo.index.graph
            graph = every.subgraph([stage for stage in every if isinstance(stage, PipelineStage)])
            names: dict[Any, str] = {}
            waiting = [stage for stage in graph if Path(stage.path) == file]
            while waiting:
                stage = waiting.pop(0)
                beside = Path(stage.path) == file
                names[stage] = stage.name if beside else f"{os.path.relpath(stage.path, file.parent)}:{stage.name}"
                waiting += [needed for needed in graph.successors(stage) if needed not in names]
            yield graph, names
    except LockError as error:
        raise Failed(f"{project}: another dvc is at work: {_one_line(error)}") from error
    except SCMError as error:
        raise Refused(
            f"{_one_line(error)}: run git init, or dvc config --local core.no_scm true to go without"
        ) from error
    except DvcException as error:
        raise Refused(f"{project}: {_one_line(error)}") from error


def with_needed(plan: Plan, targets: Iterable[str]) -> set[str]:
    """The targets and all that they need. A target may name a whole group: `train` stands for every `train@...`.

    Raises:
        Refused: for a target that is not in the plan.
    """
    chosen: set[str] = set()
    waiting: list[str] = []
    for target in targets:
        matching = [name for name in plan if target in (name, name.partition("@")[0])]
        if not matching:
            raise Refused(f"stage: found {target!r}; the plan has {', '.join(plan)}")
        waiting += matching
    while waiting:
        name = waiting.pop()
        if name not in chosen:
            chosen.add(name)
            waiting += plan[name]
    return chosen


def with_dependents(plan: Plan, changed: Iterable[str]) -> list[str]:
    """The changed stages and all that need them, in the order of the plan: what may have to run."""
    due = set(changed)
    for name, needed in plan.items():  # needed stages come first, so one pass reaches all
        if due.intersection(needed):
            due.add(name)
    return [name for name in plan if name in due]


def due_stages(project: Path, targets: Sequence[str] = ()) -> list[str]:
    """What may have to run to bring the targets up to date, in the order of the plan; no target stands for all.

    Raises:
        Refused: for a target that is not in the plan, or where there is none.
        Failed: where another dvc is at work.
    """
    plan = read_plan(project)
    wanted = with_needed(plan, targets or plan)
    return with_dependents({name: plan[name] for name in plan if name in wanted}, changed_stages(project) & wanted)


@dataclass(frozen=True)
class Outcome:
    """A stage that is up to date now: whether its command ran, or its result was there or in the cache."""

    stage: str
    ran: bool
    seconds: float


class StageFailed(Failed):
    """A stage ended with an error.

    Attributes:
        stage: its name.
        code: exit code of its command, None where dvc failed.
        tail: the last lines that it printed.
        busy: dvc found a lock taken, nothing was run or its result was lost: trying again helps.
    """

    def __init__(self, stage: str, tail: Iterable[str]) -> None:
        self.stage = stage
        self.tail = tuple(tail)
        said = "\n".join(self.tail)
        found = re.search(r"exited with (-?\d+)\s*$", said)
        self.code = int(found[1]) if found else None
        self.busy = self.code is None and ("Unable to acquire lock" in said or "is busy, it is being blocked" in said)
        reason = f"its command exited with {self.code}" if found else self.tail[-1] if self.tail else "it was killed"
        super().__init__(f"stage {stage} failed: {reason}")


class Stopped(Failed):
    """A stage was stopped, or not started any more, because its flow ends."""


class Processes:
    """The stages that run for a flow of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: set[subprocess.Popen[str]] = set()
        self._accepting = False

    @contextlib.contextmanager
    def accepting(self) -> Iterator[None]:
        """Stages may be started while the block runs. However it ends, none is running afterwards."""
        with self._lock:
            self._accepting = True
        try:
            yield
        finally:
            self.stop()

    def stop(self) -> None:
        """Stop all that runs and accept nothing more."""
        with self._lock:
            self._accepting = False
            live = tuple(self._live)
        for process in live:
            process.terminate()  # the launcher stops its group
        for process in live:
            end_group(process, GRACE)

    def run(self, stage: str, project: Path, report: Callable[[str], None]) -> Outcome:
        """Bring one stage up to date by dvc, and pass on every line that it prints.

        Args:
            stage: a name of `read_plan`.
            project: the project's folder.
            report: gets each line.

        Raises:
            StageFailed: where it fails.
            Stopped: where the flow ends meanwhile.
        """
        start = time.monotonic()
        tail: deque[str] = deque(maxlen=TAIL)
        skipped = False
        with self._started(stage, project) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if (line := line.rstrip()) and not line.strip().startswith(ADVICE):
                    tail.append(line)
                    skipped = skipped or line.endswith(SKIPPED)
                    report(line)
            code = process.wait()
        with self._lock:
            if not self._accepting:
                raise Stopped(f"stage {stage} was stopped")
        if code != 0:
            raise StageFailed(stage, tail)
        return Outcome(stage=stage, ran=not skipped, seconds=time.monotonic() - start)

    @contextlib.contextmanager
    def _started(self, stage: str, project: Path) -> Iterator[subprocess.Popen[str]]:
        """The process of a stage; when the block ends, in whatever way, it has ended with all that it started."""
        with self._lock:
            if not self._accepting:
                raise Stopped(f"stage {stage} was not started: its flow ends")
            process = _start(stage, project)
            self._live.add(process)
        try:
            with process:
                try:
                    yield process
                except BaseException:  # a cancelled or timed-out task: nothing of it may go on
                    process.terminate()
                    end_group(process, GRACE)
                    raise
        finally:
            with self._lock:
                self._live.discard(process)


PROCESSES = Processes()


def _start(stage: str, project: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", stage]
    beside = str(Path(sys.executable).parent)  # the stages' `python` is this one
    environment = os.environ | {
        "PATH": os.pathsep.join([beside, os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
        "DVC_NO_ANALYTICS": "1",
    }
    return launch(command, grace=GRACE, environment=environment, folder=project)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
