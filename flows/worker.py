"""What a worker of a batch job does: write shards, with the package loaded once for all that its process writes.

The state of a process lives here and not beside the task: a task is sent to other processes with what its function
refers to in its own module by value, and modules that it imports by name.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ganlib.files import sha256_of
from ganlib.inference.batch.job import Job
from ganlib.inference.batch.shard import Stats, Writer, is_done
from ganlib.inference.package import CARD, open_package
from ganlib.inference.sample import Generator
from ganlib.problems import Refused

_STOP = threading.Event()  # of the shards in this process
_LOADING = threading.Lock()
_WRITERS: dict[tuple[Path, str, str, str], Writer] = {}


class Stopped(Exception):
    """The flow has ended before its shard."""


def write(package: Path, out: Path, shard: int) -> Stats:
    """Write one shard of a planned job, unless it is there.

    Raises:
        Refused: where the package that lies there now is not the one that the job was planned with.
        Failed: where the folder lacks a part of the plan.
        OSError: where a file cannot be written.
        Stopped: where `accepting` has ended meanwhile.
    """
    job = Job.load(out)
    return is_done(out, job, shard) or _writer(package, job).write(out, job, shard, _go_on)


@contextlib.contextmanager
def accepting() -> Iterator[None]:
    """However the block ends, shards that threads of this process are at are given up then."""
    _STOP.clear()
    try:
        yield
    finally:
        _STOP.set()


def stopped() -> bool:
    """Whether an `accepting` block has ended."""
    return _STOP.is_set()


def _writer(package: Path, job: Job) -> Writer:
    """The writer of this process, with one thread of the runtime; it is kept for the next shard.

    Raises:
        Refused: where the package that lies there now is not the one that the job was planned with.
    """
    settings = job.settings
    key = package, settings.card_sha256, settings.device, settings.precision
    with _LOADING:
        if key not in _WRITERS:
            if sha256_of(package / CARD) != settings.card_sha256:
                raise Refused(f"{package}: its {CARD} is not that of the job; workers and flow need the same package")
            generator = Generator(open_package(package), settings.device, 1, settings.precision)
            _WRITERS.clear()
            _WRITERS[key] = Writer(generator, encoders=1)
        return _WRITERS[key]


def _go_on(images: int) -> None:
    if _STOP.is_set():
        raise Stopped("stopped with the flow")


def follow(flow_process: int) -> None:
    """End this process with the flow's, which a killed one does not do for its pool."""
    threading.Thread(target=_watch, args=(flow_process,), name="follow-flow", daemon=True).start()


def _watch(flow_process: int, every: float = 0.5) -> None:
    while os.getppid() == flow_process:
        time.sleep(every)
    with contextlib.suppress(OSError):
        print("the flow is gone: this worker ends too", file=sys.stderr, flush=True)
    os._exit(1)
