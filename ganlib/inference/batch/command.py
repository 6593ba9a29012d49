"""`ganlib batch`: all images of a table of requests, in shards that a killed job does not lose."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from ganlib.inference.batch.job import REJECTS, SHARD_SIZE, Job, settings_of
from ganlib.inference.batch.plan import open_job
from ganlib.inference.batch.progress import Progress
from ganlib.inference.batch.shard import Stats, Writer, is_done
from ganlib.inference.package import open_package
from ganlib.inference.sample import ChosenPrecision, Generator
from ganlib.inference.session import Device
from ganlib.problems import Failed


def batch(
    package: Path,
    requests: Path,
    out: Path,
    report: Callable[[str], None],
    *,
    shard_size: int = SHARD_SIZE,
    seed: int = 0,
    truncation: float = 1.0,
    device: Device = "auto",
    threads: int = 0,
    precision: ChosenPrecision = "auto",
    strict: bool = False,
) -> Job:
    """Do a job, or what an interrupted one has left of it.

    Args:
        package: the package's folder.
        requests: a .csv, .jsonl or .parquet table, see `ganlib.inference.batch.requests`.
        out: the job's folder.
        report: takes a line for the user.
        shard_size: images in a shard; a killed job loses those that it was at.
        seed, truncation: of rows that say none: image i of the job has `seed + i`.
        device, threads: see `ganlib.inference.session.open_session`.
        precision: see `ganlib.inference.sample.Generator`.
        strict: refuse to start where a row is rejected, or a column looks misspelt.

    Returns:
        the job, done.

    Raises:
        Refused: for a broken package, a table that the model cannot answer, or a folder of something else.
        Failed: where a file cannot be written, or the work was interrupted.
    """
    generator = Generator(open_package(package), device, threads, precision)
    settings = settings_of(generator, requests, shard_size, seed, truncation)
    try:
        with (
            stopped_by_signals(),
            open_job(out, settings, generator.package.card, requests, report, strict=strict) as job,
        ):
            due = begin(out, job, report)
            if due:
                _write(out, job, due, Writer(generator), report)
            end(out, job, report)
            return job
    except KeyboardInterrupt:
        raise Failed("interrupted; finished shards stay, and the same command goes on from there") from None
    except OSError as error:
        raise unwritten(out, error) from error


def _write(out: Path, job: Job, due: list[int], writer: Writer, report: Callable[[str], None]) -> None:
    there = job.images - sum(len(job.images_of(shard)) for shard in due)
    with Progress(job.images, there, report) as progress:
        for shard in due:
            writer.write(out, job, shard, progress.add)
    report(f"wrote {job.images - there} images to {out}, {progress.rate():.0f} a second")


def begin(out: Path, job: Job, report: Callable[[str], None]) -> list[int]:
    """Say what is to do, and give the shards that are."""
    if job.rejected:
        report(f"{job.rejected} of {job.rows + job.rejected} rows rejected, see {out / REJECTS}")
    due = [shard for shard in range(job.shards) if not is_done(out, job, shard)]
    settings = job.settings
    what = f"{settings.model} on {settings.device}, {settings.precision}: {job.images} images of {job.rows} rows"
    report(f"{what} in {job.shards} shards" + (f", {job.shards - len(due)} are there" if len(due) < job.shards else ""))
    return due


def end(out: Path, job: Job, report: Callable[[str], None]) -> list[Stats]:
    """Say what there is, and give what the shards say of themselves.

    Raises:
        Failed: where one is not done.
    """
    stats = [is_done(out, job, shard) for shard in range(job.shards)]
    there = [one for one in stats if one]
    if len(there) < job.shards:
        raise Failed(f"out: {out} has {len(there)} of {job.shards} shards; the same command makes the others")
    if unknown := sum(one.unknown_words for one in there):
        report(f"{unknown} images have words in their prompt that {job.settings.model} does not know, see their .json")
    report(f"done: {job.images} images in {job.shards} shards lie in {out}")
    return there


def unwritten(out: Path, error: OSError) -> Failed:
    """What a person is told where a file of a job cannot be written or read."""
    where = error.filename or out
    return Failed(
        f"out: {where}: {error.strerror or error}; finished shards stay, and the same command goes on from there"
    )


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, by `KeyboardInterrupt`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
