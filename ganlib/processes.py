"""A stage ends with the dvc that runs it.

A killed dvc leaves its command running, and a rerun would then train beside it into the same folders. So a stage
watches the dvc above it and goes when that one goes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

STAGE_VARIABLE = "DVC_STAGE"  # dvc sets it for the commands that it runs, and has it not itself
_PR_SET_PDEATHSIG = 1


def follow_parent(grace: float = 20.0, every: float = 1.0) -> None:
    """End this process soon after the dvc that runs it has ended; do nothing where no dvc does.

    SIGTERM comes first, so that a training can write a checkpoint; what still runs after the grace is cut off with
    exit code 143. On Linux the dvc is found through any shells between, and known by process id and start time.
    Elsewhere the direct parent is watched, which is dvc itself with the shells that replace themselves by a single
    command (sh, bash, zsh).

    Args:
        grace: seconds between SIGTERM and the end.
        every: seconds between looks.
    """
    if STAGE_VARIABLE not in os.environ:
        return
    runner = _runner()
    if runner is None:
        parent = os.getppid()
        gone: Callable[[], bool] = lambda: os.getppid() != parent  # noqa: E731
    else:
        started = _started(runner)
        gone = lambda: _started(runner) != started  # noqa: E731
        if runner == os.getppid():
            # The kernel tells at once, even while one long call into C keeps the watching thread from running.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    threading.Thread(target=_watch, args=(gone, grace, every), name="follow-parent", daemon=True).start()


def _watch(gone: Callable[[], bool], grace: float, every: float) -> None:
    while not gone():
        time.sleep(every)
    with contextlib.suppress(OSError):  # whoever read standard error may be gone as well
        print("the dvc that ran this stage is gone: the stage ends too", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace)
    os._exit(128 + signal.SIGTERM)


def _runner() -> int | None:
    """Process id of the dvc above this process: the nearest ancestor without the variable that dvc sets for its
    commands. None where the system has no /proc."""
    for ancestor in _ancestors():
        try:
            environment = Path(f"/proc/{ancestor}/environ").read_bytes().split(b"\0")
        except OSError:  # another user's process: no command of our dvc
            return ancestor
        if not any(entry.startswith(STAGE_VARIABLE.encode() + b"=") for entry in environment):
            return ancestor
    return None


def _ancestors() -> Iterator[int]:
    """Process ids from the parent upwards; none where the system has no /proc."""
    process = os.getppid()
    while process > 0 and (fields := _status(process)):
        yield process
        process = int(fields[1])


def _started(process: int) -> int | None:
    """When a process started, in clock ticks since boot; None for one that has ended, reaped or not."""
    fields = _status(process)
    return int(fields[19]) if fields and fields[0] not in ("Z", "X") else None


def _status(process: int) -> list[str]:
    """/proc/PID/stat from the state on (the third field: what stands before may hold blanks); empty where it is not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
