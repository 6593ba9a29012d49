"""A batch job as one flow, for a deployment: from a release or a folder, and a table, to shards.

Importing this imports Prefect: see `flows.graph`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow, get_run_logger, states
from prefect.client.schemas.objects import State
from pydantic import Field

from flows import shards
from ganlib.inference.batch.command import begin, end, unwritten
from ganlib.inference.batch.job import SHARD_SIZE, settings_of
from ganlib.inference.batch.plan import open_job
from ganlib.inference.package import open_package
from ganlib.inference.references import package_of
from ganlib.inference.sample import Generator
from ganlib.problems import Failed, Refused


@flow(name="batch-job")
def batch_job(
    package: str,
    requests: Path,
    out: Path,
    registry: str | None = None,
    shard_size: Annotated[int, Field(ge=1)] = SHARD_SIZE,
    seed: int = 0,
    truncation: Annotated[float, Field(gt=0, le=1)] = 1.0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["auto", "float32", "float16", "int8"] = "auto",
    runner: Literal["threads", "processes", "dask"] = "threads",
    workers: Annotated[int, Field(ge=1)] = 2,
    strict: bool = False,
) -> State[Any]:
    """All images of a table of requests, as `python -m flows.batch` makes them.

    Args:
        package: folder of a package, or NAME@prod of a registry.
        requests: a .csv, .jsonl or .parquet table: prompt or class, and if wanted seed, count, truncation.
        out: folder of the job; a run with the same settings goes on there.
        registry: path or address of the git repository whose releases NAME@prod means; `.` is the project's.
        shard_size: images in a shard.
        seed: where a row says none; image i of the job has seed + i.
        truncation: where a row says none; above 0, at most 1.
        device: where the graphs run.
        precision: the numbers that they compute in.
        runner: what writes the shards.
        workers: how many of them.
        strict: do not start where a row is rejected.
    """
    say = get_run_logger().info
    try:
        folder, out = package_of(Path(package), registry, None).resolve(), out.resolve()
        generator = Generator(open_package(folder), device, 1, precision)
        settings = settings_of(generator, requests, shard_size, seed, truncation)
        with open_job(out, settings, generator.package.card, requests, say, strict=strict) as job:
            if due := begin(out, job, say):
                task_runner = shards.task_runner(runner, workers)
                del generator  # workers have their own
                write = shards.batch.with_options(task_runner=task_runner)
                write(folder, out, due, workers, return_state=True)  # its artifact says which shards failed, if any
            end(out, job, say)
    except (Refused, Failed) as error:  # a state: a traceback of ours says nothing more
        return states.Failed(message=str(error))
    except OSError as error:
        return states.Failed(message=str(unwritten(out, error)))
    return states.Completed(message=f"{job.images} images lie in {out}")
