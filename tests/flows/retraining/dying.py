"""Runs of `flows.retrain` that are killed, or find the disk full, at a place of their own: `Dying` starts them.

The modules that a run needs are imported once; each run is a fork of this program, which has one thread.

    python -m tests.flows.retraining.dying    reads a line of JSON for each run, writes its process id and its exit code
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.flows.retraining.project import Retraining


class Dying:
    """The program above, as a test uses it."""

    def __init__(self, said: Path, server: str) -> None:
        self._said, self._before = said, 0
        with said.open("w") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.flows.retraining.dying"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=out,
                env=os.environ | {"PREFECT_API_URL": server},  # Prefect reads it when it is imported
                text=True,
            )

    def run(self, project: Retraining, after: str = "", limit: int = 0) -> int:
        """Run the command for a project.

        Args:
            project: whose variables of the environment are those of this process.
            after: MODULE:FUNCTION that the run is killed after, with SIGKILL; empty lets it live.
            limit: bytes that a file can have; 0 for no limit.

        Returns:
            the exit code; below 0 the number of the signal that it died of.
        """
        self.start(project, after, limit)
        return self.wait()

    def start(self, project: Retraining, after: str = "", limit: int = 0) -> int:
        """Begin such a run, and give the id of its process."""
        assert self._process.stdin is not None
        arguments = ["--project", str(project.folder)]
        request = {"after": after, "limit": limit, "arguments": arguments, "environment": dict(os.environ)}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self.wait()

    def wait(self) -> int:
        """The exit code of the run, once it has ended."""
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def said(self) -> str:
        """What runs have printed since the last `forget`."""
        return self._said.read_text()[self._before :]

    def forget(self) -> None:
        self._before = len(self._said.read_text())

    def stop(self) -> None:
        self._process.communicate(timeout=30)


def main() -> None:
    """Serve requests."""
    for needed in ("flows.retraining.flow", "flows.server", "dvc.repo", "dvc.stage"):
        importlib.import_module(needed)
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            _run(**json.loads(line))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _run(after: str, limit: int, arguments: Sequence[str], environment: dict[str, str]) -> None:
    """A run, in a process of its own."""
    from flows import retrain

    os.environ.update(environment)
    os.dup2(2, 1)  # standard output is the answer's
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if after:
        module, _, function = after.partition(":")
        place = importlib.import_module(module)
        living = getattr(place, function)

        def deadly(*given: Any, **named: Any) -> None:
            living(*given, **named)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(place, function, deadly)
    try:
        code = retrain.main(arguments)
    except BaseException as error:  # noqa: BLE001
        print(repr(error), file=sys.stderr)
        code = 99
    os._exit(code)


if __name__ == "__main__":
    main()
