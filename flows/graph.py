"""The graph of dvc.yaml as a Prefect flow: one task for each stage that has to run.

Importing this imports Prefect, which takes seconds and reads its settings from the environment: `flows.pipeline` sets
those first, and does so only when there is something to run.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, states, task
from prefect.artifacts import create_image_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, as_completed

from flows import summary
from flows.dvc import PROCESSES, Outcome, Plan, StageFailed, Stopped, due_stages, read_plan

Future = PrefectFuture[Any]


@dataclass(frozen=True)
class Run:
    """What a flow did.

    Attributes:
        outcomes: of the stages that are up to date now.
        failures: of those that failed.
        skipped: stages that were not started, because one that they need failed.
    """

    outcomes: tuple[Outcome, ...]
    failures: tuple[StageFailed, ...]
    skipped: tuple[str, ...]


def _found_a_lock(task: Any, run: Any, state: State[Any]) -> bool:
    """Whether trying again helps: only where dvc found a lock taken. A failed training would fail again, and a
    stopped one has to stay so."""
    return isinstance(state.data, StageFailed) and state.data.busy


@task(
    name="stage",
    task_run_name="{stage}",
    cache_policy=NO_CACHE,  # dvc knows better what is up to date
    retries=2,
    retry_delay_seconds=[2, 10],
    retry_condition_fn=_found_a_lock,
)
def run_stage(stage: str, project: Path) -> Outcome | State[Any]:
    """Bring one stage up to date; its lines go to the log of the task."""
    try:
        return PROCESSES.run(stage, project, get_run_logger().info)
    except StageFailed as error:  # a state and not an exception: the reason is in the log, a traceback of ours is none
        return states.Failed(message=str(error), data=error)
    except Stopped as error:
        return states.Cancelled(message=str(error))


@flow(name="pipeline")
def pipeline(project: Path = Path(), stages: Sequence[str] = (), jobs: int = 1) -> State[Any]:
    """Bring a project up to date.

    Args:
        project: a folder with a dvc.yaml.
        stages: these and what they need; a group's name stands for all of it; none stands for everything.
        jobs: stages that may run at once.

    Returns:
        a state with a `Run`. It is a failed one where a stage failed; stages that do not need it have run then.
    """
    project = project.resolve()
    with PROCESSES.accepting():  # however this ends, by an error, Ctrl-C or a cancel, no process is left behind
        run = _run_all(due_stages(project, stages), read_plan(project), project, jobs)
    _publish(project, run)
    if run.failures:
        return states.Failed(message="; ".join(str(failure) for failure in run.failures), data=run)
    return states.Completed(message=f"{len(run.outcomes)} stages are up to date", data=run)


def _run_all(due: Sequence[str], plan: Plan, project: Path, jobs: int) -> Run:
    """Submit each stage once all that it needs is up to date, at most `jobs` at once, in the order of the plan."""
    waiting, running, done = list(due), dict[Future, str](), dict[str, Future]()
    outcomes, failures = list[Outcome](), list[StageFailed]()
    while True:
        ready = [stage for stage in waiting if all(needed in done or needed not in due for needed in plan[stage])]
        for stage in ready[: jobs - len(running)]:
            waiting.remove(stage)
            needed = [done[name] for name in plan[stage] if name in done]
            running[run_stage.submit(stage, project, return_state=False, wait_for=needed)] = stage
        if not running:
            return Run(tuple(outcomes), tuple(failures), tuple(waiting))
        future = next(as_completed(list(running)))
        stage = running.pop(future)
        result = future.result(raise_on_failure=False)
        if future.state.is_completed():
            done[stage] = future
            outcomes.append(result)
        else:  # also a state of another type, such as a crash of Prefect's: what is not completed has failed
            failures.append(result if isinstance(result, StageFailed) else StageFailed(stage, [str(future.state)]))


def _publish(project: Path, run: Run) -> None:
    """Metrics and sample grids of all models as artifacts of the flow run."""
    models = summary.read_models(project)
    if not models:
        return
    create_markdown_artifact(summary.markdown(summary.table(models, run.outcomes)), key="metrics", description="models")
    for model in models:
        for picture in model.pictures:
            encoded = base64.b64encode(picture.read_bytes()).decode()
            create_image_artifact(
                f"data:image/png;base64,{encoded}", key=f"{model.name}-{picture.stem.replace('_', '-')}"
            )
