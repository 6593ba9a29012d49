"""A batch job as a Prefect flow: one task for each shard that is not done.

A shard is a function of the job's folder and the package, so workers share nothing but these two paths: the bytes are
the same whoever writes it and in whatever order. Importing this imports Prefect: see `flows.graph`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger, states, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from flows import worker
from ganlib.inference.batch.job import REJECTS, Job
from ganlib.problems import Failed, Refused

Runner = Literal["threads", "processes", "dask"]
Future = PrefectFuture[Any]
RETRIES = 2


def _may_help(task: Any, run: Any, state: State[Any]) -> bool:
    """Whether trying again helps: not where the request was wrong, and not once the flow has ended."""
    return not isinstance(state.data, Refused | worker.Stopped) and not worker.stopped()


@task(
    name="shard",
    task_run_name="shard {shard}",
    cache_policy=NO_CACHE,  # the files say what is done
    retries=RETRIES,
    retry_delay_seconds=[1, 10],
    retry_condition_fn=_may_help,
)
def write_shard(package: Path, out: Path, shard: int) -> int | State[Any]:
    """Write one shard, unless it is there, and give how many images it has."""
    try:
        stats = worker.write(package, out, shard)
    except (Refused, Failed, OSError, worker.Stopped) as error:  # a state: a traceback of ours says nothing more
        return states.Failed(message=f"shard {shard}: {error}", data=error)
    get_run_logger().info(f"{stats.images} images, {stats.images_per_second:.0f} a second")
    return stats.images


@flow(name="batch")
def batch(package: Path, out: Path, due: Sequence[int], workers: int) -> State[Any]:
    """Write the shards of a planned job.

    Args:
        package, out: folders that every worker sees by these paths.
        due: the shards to write.
        workers: how many there are; twice as many shards are handed out at a time.

    Returns:
        a state with the lines that say which shards failed; a failed one where there are any.
    """
    job, started, written = Job.load(out), time.monotonic(), 0
    failures: list[str] = []
    with worker.accepting():
        for future in _in_turn(package, out, due, 2 * workers):
            result = future.result(raise_on_failure=False)
            if future.state.is_completed():
                written += result
            else:  # also a crash of a worker
                failures.append(future.state.message or str(future.state))
    _publish(job, out, written, time.monotonic() - started, failures)
    if failures:
        return states.Failed(message=f"{len(failures)} shards failed", data=failures)
    return states.Completed(message=f"{written} images", data=failures)


def _in_turn(package: Path, out: Path, due: Sequence[int], at_once: int) -> Iterator[Future]:
    """Submit shards in order, some at once, and give each as it ends: a job of a million needs no million futures."""
    waiting, running = iter(due), set[Future]()
    while True:
        for shard in waiting:
            running.add(write_shard.submit(package, out, shard, return_state=False))
            if len(running) == at_once:
                break
        if not running:
            return
        future = next(as_completed(list(running)))
        running.remove(future)
        yield future


def _publish(job: Job, out: Path, written: int, seconds: float, failures: Sequence[str]) -> None:
    """What was made, as an artifact of the flow run."""
    table = {
        "model": f"{job.settings.model}, {job.settings.precision} on {job.settings.device}",
        "images": f"{written} of this run, {job.images} in the job",
        "rate": f"{written / max(seconds, 1e-9):.0f} images a second",
        "rows rejected": f"{job.rejected}, see {REJECTS}" if job.rejected else "0",
        "folder": str(out),
        "shards that failed": str(len(failures)),
    }
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in table.items()), ""]
    create_markdown_artifact("\n".join([*lines, *failures]), key="batch", description=f"batch job in {out.name}")


def task_runner(runner: Runner, workers: int, dask_address: str | None = None) -> TaskRunner[Any]:
    """What runs the tasks.

    Args:
        runner: threads of this process, processes of this machine, or Dask: the cluster at an address, or one on this
            machine for the time of the flow.
        workers: how many; a running cluster has its own.
        dask_address: of a scheduler, for example tcp://10.0.0.1:8786.

    Raises:
        Refused: for Dask where prefect-dask is not installed.
    """
    if runner == "threads":
        return ThreadPoolTaskRunner(max_workers=workers)
    if runner == "processes":
        return ProcessPoolTaskRunner(max_workers=workers, initializer=worker.follow, initargs=(os.getpid(),))
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError:
        raise Refused("runner: found dask, which is not installed: `pip install 'ganlib[dask]'`") from None
    if dask_address:
        return DaskTaskRunner(address=dask_address)
    cluster = {
        "n_workers": workers,
        "threads_per_worker": 1,
        "processes": True,
        "host": "127.0.0.1",
        "dashboard_address": "127.0.0.1:0",
        "silence_logs": "WARNING",
    }
    return DaskTaskRunner(cluster_kwargs=cluster)
