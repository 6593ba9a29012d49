"""A batch job on several workers: `python -m flows.batch PACKAGE REQUESTS --out FOLDER`.

The job is that of `ganlib batch`, to the byte, and either goes on with what the other has begun. Each shard is a
Prefect task, tried again where it fails. Exit codes: 0 done, 1 a shard failed or it was interrupted, 2 the request was
wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from flows.pipeline import SETTINGS
from ganlib.inference.batch.command import begin, end, unwritten
from ganlib.inference.batch.job import SHARD_SIZE, settings_of
from ganlib.inference.batch.plan import open_job
from ganlib.inference.package import open_package
from ganlib.inference.sample import Generator
from ganlib.inference.session import DEVICES
from ganlib.problems import Failed, Refused

QUIET = {"DASK_LOGGING__DISTRIBUTED": "warning"}  # of a cluster that comes and goes with the flow


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    options = _parser().parse_args(arguments)
    for name, value in (SETTINGS | QUIET).items():
        os.environ.setdefault(name, value)
    try:
        if options.runner == "dask" and importlib.util.find_spec("prefect_dask") is None:
            raise Refused("runner: found dask, which is not installed: `pip install 'ganlib[dask]'`")
        if options.dask_address and options.runner != "dask":
            raise Refused(f"dask-address: found {options.dask_address} with {options.runner}; add --runner dask")
        _run(options)
    except (Refused, Failed) as error:
        print(f"flows.batch: {error}", file=sys.stderr)
        return 2 if isinstance(error, Refused) else 1
    return 0


def _run(options: argparse.Namespace) -> None:
    package, out = options.package.resolve(), options.out.resolve()
    generator = Generator(open_package(package), options.device, 1, options.precision)
    settings = settings_of(generator, options.requests, options.shard_size, options.seed, options.truncation)
    try:
        with open_job(out, settings, generator.package.card, options.requests, _say, strict=options.strict) as job:
            if due := begin(out, job, _say):
                del generator  # workers have their own
                _write(package, out, due, options)
            end(out, job, _say)
    except OSError as error:
        raise unwritten(out, error) from error


def _write(package: Path, out: Path, due: list[int], options: argparse.Namespace) -> None:
    from flows.server import server
    from flows.shards import batch, task_runner

    runner = task_runner(options.runner, options.workers, options.dask_address)
    try:
        with server() as address, _known_to_all_threads(address):
            state = batch.with_options(task_runner=runner)(package, out, due, options.workers, return_state=True)
    except KeyboardInterrupt:
        raise Failed("interrupted; finished shards stay, and the same command goes on from there") from None
    if not state.is_completed() and not state.is_failed():
        raise Failed(f"the flow ended as {state}")
    failures = state.result(raise_on_failure=False)
    if isinstance(failures, Exception):
        raise failures
    for failure in failures:
        print(f"flows.batch: {failure}", file=sys.stderr)


@contextlib.contextmanager
def _known_to_all_threads(address: str) -> Iterator[None]:
    """The server for threads of Prefect's own too: temporary settings reach none that Prefect starts bare, and the one
    that hands on what processes of a pool report would start another server."""
    from prefect.context import refresh_global_settings_context

    before = os.environ.get("PREFECT_API_URL")
    os.environ["PREFECT_API_URL"] = address
    refresh_global_settings_context()
    try:
        yield
    finally:
        os.environ.pop("PREFECT_API_URL")
        if before is not None:
            os.environ["PREFECT_API_URL"] = before
        refresh_global_settings_context()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flows.batch", description="A batch job on several workers.")
    parser.add_argument("package", type=Path, help="a package: models/NAME/package; every worker sees it by this path")
    parser.add_argument(
        "requests", type=Path, help=".csv, .jsonl or .parquet: prompt or class, seed, count, truncation"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the job; every worker sees it by this path")
    parser.add_argument("--runner", choices=("threads", "processes", "dask"), default="threads")
    parser.add_argument(
        "--workers", type=_positive, default=os.cpu_count() or 1, metavar="N", help="default: one for each core"
    )
    parser.add_argument("--dask-address", help="of a running scheduler; default: a cluster here for this run")
    parser.add_argument("--shard-size", type=int, default=SHARD_SIZE, help="images in a shard")
    parser.add_argument("--seed", type=int, default=0, help="where a row says none: image i of the job has SEED + i")
    parser.add_argument("--truncation", type=float, default=1.0, help="where a row says none")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--precision", choices=("auto", "float32", "float16", "int8"), default="auto")
    parser.add_argument("--strict", action="store_true", help="do not start where a row is rejected")
    return parser


def _positive(value: str) -> int:
    number = int(value)
    if number < 1:
        raise ValueError(value)
    return number


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
