"""Commands of a flow that are no stages, such as dvc and `ganlib score`: streamed, and stopped with the flow."""

from __future__ import annotations

import os
import re
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flows.launcher import end_group, launch
from ganlib.inference.registry import without_secrets
from ganlib.problems import Failed

GRACE = 10.0  # seconds between SIGTERM and SIGKILL
KEPT = 2000  # lines that are given back at most, the last ones

_ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")  # a hook of git sets them
_CHATTER = ("Having any troubles?", "WARNING:")

Report = Callable[[str], None]
"""Takes a line for the user."""


class CommandFailed(Failed):
    """A command ended with an error.

    Attributes:
        code: its exit code.
        lines: the last that it printed.
        reason: the line among them that says why.
    """

    def __init__(self, command: Sequence[str], code: int, lines: Sequence[str]) -> None:
        self.code = code
        self.lines = tuple(lines)
        said = [line for line in lines if line.strip() and not line.startswith(_CHATTER)]
        marked = [line for line in said if line.startswith(("ERROR:", "ganlib: ", "fatal:", "error:"))]
        reason = (marked or said or [f"it exited with {code}"])[-1]
        self.reason = re.sub(r"^(ERROR|ganlib|fatal|error): (unexpected error - )?", "", reason).rstrip(".")
        super().__init__(f"{' '.join(command)}: {self.reason}")


def run(
    command: Sequence[str], folder: Path, report: Report | None = None, environment: Mapping[str, str] | None = None
) -> list[str]:
    """Run a command to its end and give the lines that it printed.

    However this function is left, and even where this process is killed, nothing of the command goes on.

    Args:
        command: it and its arguments; `python` is this one.
        folder: where it runs.
        report: gets each line.
        environment: variables beside those of this process.

    Raises:
        CommandFailed: where it ends with an error.
    """
    beside = str(Path(sys.executable).parent)
    variables = {key: value for key, value in os.environ.items() if key not in _ELSEWHERE}
    variables |= {
        "PATH": os.pathsep.join([beside, os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
        "DVC_NO_ANALYTICS": "1",
    } | dict(environment or {})
    lines: deque[str] = deque(maxlen=KEPT)
    with launch(command, grace=GRACE, environment=variables, folder=folder) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line := without_secrets(line.rstrip()):
                    lines.append(line)
                    if report is not None:
                        report(line)
            code = process.wait()
        except BaseException:
            process.terminate()
            end_group(process, GRACE)
            raise
    if code != 0:
        raise CommandFailed(command, code, lines)
    return list(lines)


def dvc(*arguments: str, folder: Path, report: Report | None = None) -> list[str]:
    """Run dvc, which waits for another one at work in the same folder, and give the lines that it printed.

    Raises:
        CommandFailed: where it ends with an error.
    """
    # -P: the folder is not searched for modules
    command = [sys.executable, "-P", "-m", "dvc", "--wait-for-lock", *arguments]
    try:
        return run(command, folder, report)
    except CommandFailed as error:
        raise CommandFailed(["dvc", *arguments[:1]], error.code, error.lines) from error
