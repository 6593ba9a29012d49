"""A small project of its own in a git and dvc repository, whose stages take no time, and one Prefect server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# `exec`: whatever the shell, the process above a command is dvc.
PLAN = """
stages:
  source:
    cmd: exec python stage.py source
    deps: [raw.txt]
    outs: [data/source]
  train:
    matrix:
      model: ${models}
    cmd: exec python stage.py train ${item.model}
    deps: [data/source]
    params: ["train.${item.model}"]
    outs: ["models/${item.model}/weights"]
  report:
    matrix:
      model: ${models}
    cmd: exec python stage.py report ${item.model}
    deps: ["models/${item.model}/weights"]
    outs: ["reports/${item.model}/text"]
"""

PARAMETERS = """
models: [one, two]
train:
  one: {does: write}
  two: {does: write}
"""

# What a stage does is said by params.yaml: `write` its output, `fail` with exit code 3, or `sleep` for a minute.
STAGE = """
import os, pathlib, sys, time
name = "@".join(sys.argv[1:])
does = "write"
for line in pathlib.Path("params.yaml").read_text().splitlines():
    if sys.argv[1] == "train" and line.startswith(f"  {sys.argv[2]}:"):
        does = line.split("does: ")[1].rstrip("}")
with open("log.txt", "a") as log:
    log.write(f"{name} {os.getpid()} {os.getppid()}\\n")
print(f"{name} begins")
if does == "fail":
    print("the reason", file=sys.stderr)
    sys.exit(3)
if does == "sleep":
    time.sleep(60)
place = {"source": "data/source", "train": "models/{}/weights", "report": "reports/{}/text"}[sys.argv[1]]
place = pathlib.Path(place.format(*sys.argv[2:]))
place.parent.mkdir(parents=True, exist_ok=True)
place.write_text(pathlib.Path("raw.txt").read_text() + name)
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            # of the trie of paths that dvc is built on, each time that it reads a plan
            item.add_marker(pytest.mark.filterwarnings("ignore:_NoneStep.value will soon raise:DeprecationWarning"))


class Project:
    """The small project."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, content: str) -> None:
        (self.folder / name).write_text(content)

    def let(self, model: str, does: str) -> None:
        """Set what the training of a model does."""
        old = PARAMETERS if not (file := self.folder / "params.yaml").exists() else file.read_text()
        lines = (
            f"  {model}: {{does: {does}}}" if line.startswith(f"  {model}:") else line for line in old.splitlines()
        )
        self.write("params.yaml", "\n".join(lines) + "\n")

    def ran(self) -> list[str]:
        """The stages whose commands were started, in order."""
        return [line.split()[0] for line in self._log()]

    def processes(self) -> list[int]:
        """Ids of the commands' processes and of the dvc above each."""
        return [int(number) for line in self._log() for number in line.split()[1:]]

    def forget(self) -> None:
        (self.folder / "log.txt").unlink(missing_ok=True)

    def dvc(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """`python -m flows.pipeline` for this project."""
        return subprocess.Popen(
            [sys.executable, "-m", "flows.pipeline", "--project", str(self.folder), *arguments],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # ignored where a shell started the tests in the background, and ignoring is inherited
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def _log(self) -> list[str]:
        log = self.folder / "log.txt"
        return log.read_text().splitlines() if log.exists() else []


def environment() -> dict[str, str]:
    beside = str(Path(sys.executable).parent)
    return os.environ | {"DVC_NO_ANALYTICS": "1", "PATH": f"{beside}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "project")
    project.folder.mkdir()
    for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
        subprocess.run(command, cwd=project.folder, check=True, env=environment())
    project.write("dvc.yaml", PLAN)
    project.write("params.yaml", PARAMETERS)
    project.write("stage.py", STAGE)
    project.write("raw.txt", "raw\n")
    return project


@pytest.fixture(scope="session")
def running() -> Callable[[int], bool]:
    """Whether a process runs; one that has ended and is not reaped counts as ended."""

    def is_running(process: int) -> bool:
        status = Path(f"/proc/{process}/stat")
        if status.parent.parent.joinpath("self").exists():
            try:
                return status.read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
            except OSError:
                return False
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        return True

    return is_running


@pytest.fixture(scope="session")
def eventually() -> Callable[[Callable[[], object]], bool]:
    """Whether a condition is met within half a minute."""

    def is_met(condition: Callable[[], object]) -> bool:
        end = time.monotonic() + 30.0
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    return is_met


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of a Prefect server for all tests of this session."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield PREFECT_API_URL.value()
