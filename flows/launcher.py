"""Run a command so that nothing of it outlives whoever started it.

    python launcher.py STARTER GRACE COMMAND...

STARTER is the process id of whoever starts this, GRACE seconds lie between SIGTERM and SIGKILL. Started in a session of
its own, this process leads the group that the command and everything below it belong to. The whole group is stopped
when this process gets SIGTERM, when the starter is gone (killed with SIGKILL, too: it is looked for, a signal of the
kernel's is bound to the thread that started us), and when the command ends and leaves commands of its own behind, as a
dvc that gets SIGTERM does, or one whose shell was killed. Where it was not killed, the exit code is the command's.

It needs the standard library alone, so that it starts in a few hundredths of a second.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_PR_SET_CHILD_SUBREAPER = 36
_BETWEEN_LOOKS = 0.2  # seconds


def launch(
    command: Sequence[str],
    *,
    grace: float,
    environment: Mapping[str, str],
    folder: Path | None = None,
    out: IO[bytes] | int = subprocess.PIPE,
) -> subprocess.Popen[str]:
    """Start a command by this program, in a session of its own.

    Args:
        command: it and its arguments.
        grace: seconds between SIGTERM and SIGKILL when it is stopped.
        environment: its variables.
        folder: where it runs.
        out: where its output and its errors go, as text.
    """
    # -P: this folder is not searched for modules, where `dvc` would be flows/dvc.py
    start = [sys.executable, "-P", __file__, str(os.getpid()), str(grace)]
    return subprocess.Popen(
        [*start, *command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )


def end_group(process: subprocess.Popen[Any], grace: float) -> None:
    """Wait until a launched process that was told to stop has ended; cut off its group where it does not."""
    try:
        process.wait(timeout=grace + 5.0)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main(arguments: list[str]) -> int:
    """Run the command of `arguments` (see above) and give the exit code."""
    starter, grace, command = int(arguments[0]), float(arguments[1]), arguments[2:]
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        asked = True

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started us decides
    if sys.platform == "linux":  # what the command leaves behind becomes a child of this process, which can wait for it
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    process = subprocess.Popen(command)
    while not asked and os.getppid() == starter:
        try:
            code = process.wait(timeout=_BETWEEN_LOOKS)
        except subprocess.TimeoutExpired:
            continue
        if _has_children():
            _stop(grace)
        return code if code >= 0 else 128 + signal.SIGTERM
    _stop(grace)
    return 128 + signal.SIGTERM


def _stop(grace: float) -> None:
    """SIGTERM to the group, SIGKILL after the grace to what is left of it, this process with it."""
    os.killpg(0, signal.SIGTERM)
    end = time.monotonic() + grace
    while _has_children():
        if time.monotonic() > end:
            os.killpg(0, signal.SIGKILL)
        time.sleep(0.02)
    if sys.platform != "linux":  # children of children cannot be waited for
        os.killpg(0, signal.SIGKILL)


def _has_children() -> bool:
    """Whether a child of this group is still running; those that have ended are reaped."""
    try:
        while os.waitpid(0, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
