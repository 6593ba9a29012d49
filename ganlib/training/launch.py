"""Processes of one machine that train together, started from one process as torchrun starts them.

torch's own agent starts, watches and ends them; this makes of it what the rest of ganlib expects of a stage: its lines
and its problem come out as if one process had worked, and a launcher that is killed leaves none behind.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any

from ganlib.problems import Failed, Refused

GRACE = 20.0  # seconds for a checkpoint, where the launcher is gone
_PR_SET_PDEATHSIG = 1
_LAST_LINES = 10.0  # seconds for what the processes said before they ended


def launch(work: Callable[..., None], count: int, report: Callable[[str], None], *arguments: Any) -> None:
    """Run `work(*arguments, report)` in several processes, each with the environment that torchrun gives it.

    SIGTERM and SIGINT are passed on to all. Where the processes have threads to choose, they share the cores.

    Args:
        work: a function that can be imported; its arguments can be pickled.
        count: how many processes.
        report: takes the lines of all.

    Raises:
        Refused, Failed: as the process that had a problem first raised it.
        Failed: where a process ended without a word, or SIGTERM ended all.
        KeyboardInterrupt: after SIGINT.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=count, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", local_addr="localhost", max_restarts=0, start_method="spawn",
        signals_to_handle="SIGTERM,SIGINT",
    )  # fmt: skip
    ended = ""
    with _said(count, report) as (ends, problems), _no_words_of_the_agent(), _signals_as_before(), _none_left():
        try:
            elastic_launch(config, _rank)(os.getpid(), ends, work, arguments)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            how = f"by signal {-failure.exitcode}" if failure.exitcode < 0 else f"with exit code {failure.exitcode}"
            ended = f"process {rank} of {count} ended {how}"
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            ended = f"ended by {error.sigval.name}"
    if problems:
        raise problems[0]
    if ended:
        raise Failed(f"train: {ended}; the same command goes on from the last checkpoint")


def _rank(launcher: int, ends: Sequence[Connection], work: Callable[..., None], arguments: Sequence[Any]) -> None:
    """What each process runs."""
    import torch

    _follow(launcher)
    end = ends[int(os.environ["RANK"])]
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // len(ends)))
    try:
        work(*arguments, lambda line: end.send(line))
    except (Refused, Failed) as problem:
        end.send(problem)
        raise SystemExit(2 if isinstance(problem, Refused) else 1) from None
    except Exception:  # a defect: the agent would say less of it
        traceback.print_exc()
        raise


def _follow(launcher: int) -> None:
    """End this process, its child, with the launcher: by SIGTERM, and after the grace in any case."""
    if sys.platform == "linux":  # the kernel tells at once
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name="follow-launcher", daemon=True).start()


@contextmanager
def _said(count: int, report: Callable[[str], None]) -> Iterator[tuple[list[Connection], list[Refused | Failed]]]:
    """Ends of pipes, one for each process, and the problems that come out of them; lines go to `report`.

    Both are complete when the block has ended.
    """
    pipes = [multiprocessing.Pipe(duplex=False) for _ in range(count)]
    problems: list[Refused | Failed] = []

    def read() -> None:
        open_ends = [reader for reader, _ in pipes]
        while open_ends:
            for reader in wait(open_ends):
                assert isinstance(reader, Connection)
                try:
                    message = reader.recv()
                except EOFError:
                    open_ends.remove(reader)
                    continue
                if isinstance(message, str):
                    report(message)
                else:
                    problems.append(message)

    reading = threading.Thread(target=read, name="ranks-lines", daemon=True)
    reading.start()
    try:
        yield [writer for _, writer in pipes], problems
    finally:
        for _, writer in pipes:
            writer.close()
        reading.join(_LAST_LINES)


@contextmanager
def _no_words_of_the_agent() -> Iterator[None]:
    """torch's agent tells of every end in a table; the processes have said what there is to say."""
    theirs = ("torch.distributed.", "torch.multiprocessing.")
    names = [name for name in logging.root.manager.loggerDict if name.startswith(theirs)]
    silenced = [logger for logger in map(logging.getLogger, names) if not logger.disabled]
    for logger in silenced:
        logger.disabled = True
    try:
        yield
    finally:
        for logger in silenced:
            logger.disabled = False


@contextmanager
def _signals_as_before() -> Iterator[None]:
    """The agent sets handlers and leaves them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _none_left() -> Iterator[None]:
    """However the block ends, so do the processes that it started: a second signal takes the agent out of its wait."""
    others = {child.pid for child in multiprocessing.active_children()}
    try:
        yield
    finally:
        limit = time.monotonic() + GRACE
        for child in multiprocessing.active_children():
            if child.pid not in others:
                child.join(max(0.0, limit - time.monotonic()))
                child.kill()
                child.join()
