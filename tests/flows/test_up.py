"""`make up`: everything starts, says where to look, and ends together."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from flows import up
from tests.packages import build_package

ROOT = Path(__file__).parents[2]


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Up:
    """`python -m flows.up` for a project, and what it says.

    Attributes:
        process: of the operating system.
        port, prefect_port: where it listens.
        lines: what it has said so far.
    """

    def __init__(self, project: Path, home: Path, **variables: str) -> None:
        self.port, self.prefect_port = free_ports(2)
        ports = ["--port", str(self.port), "--prefect-port", str(self.prefect_port)]
        environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.up", "--project", str(project), *ports],
            env={**environment, "PREFECT_HOME": str(home), "OMP_NUM_THREADS": "1", **variables},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # ignored where a shell started the tests in the background, and ignoring is inherited
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def until(self, said: str, seconds: float = 200.0) -> str:
        """Wait for a line with some words."""
        end = time.monotonic() + seconds
        while not (found := [line for line in list(self.lines) if said in line]):
            assert time.monotonic() < end, self.lines
            assert self.process.poll() is None or self._reader.is_alive(), self.lines
            time.sleep(0.05)
        return found[0]

    def end(self) -> int:
        code = self.process.wait(80)
        self._reader.join(10)
        return code

    def below(self) -> set[int]:
        """Ids of all processes below it."""
        parents = {}
        for status in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        found = {self.process.pid}
        while more := {child for child, parent in parents.items() if parent in found} - found:
            found |= more
        return found

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            self.lines.extend(line.rstrip("\n") for line in iter(self.process.stdout.readline, ""))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project in which nothing was made yet."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "dvc.yaml").write_text("stages: {}\n")
    return folder


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def begin(project: Path, **variables: str) -> Up:
        started.append(Up(project, tmp_path / "prefect", **variables))
        return started[-1]

    try:
        yield begin
    finally:
        for one in started:
            with contextlib.suppress(ProcessLookupError):
                one.process.terminate()
            one.end()


@pytest.mark.timeout(300, func_only=True)
def test_all_starts_from_nothing_serves_the_first_package_and_ends_when_one_dies(
    project: Path, start: Callable[..., Up], running: Callable[[int], bool], eventually: Callable[..., bool]
) -> None:
    here = start(project)
    here.until("serve   | listening on")
    images = f"http://127.0.0.1:{here.port}"
    assert eventually(lambda: httpx.get(f"{images}/v2/health/ready").status_code == 200)
    assert httpx.get(f"{images}/v1/models").json()["data"] == []
    build_package(project / "models" / "flowers" / "package", "none", name="flowers")  # what `ganlib export` would do
    here.until("Ctrl-C ends everything")
    assert f"http://127.0.0.1:{here.prefect_port}  (" in here.until("Prefect's page")
    assert here.until("Images  ").split()[1] == images
    assert f"{images}/docs" in here.until("Its API")
    here.until("flowers@1 was exported and is served from .served")
    here.until("serve   | flowers@1: ready")
    assert [entry["id"] for entry in httpx.get(f"{images}/v1/models").json()["data"]] == ["flowers", "flowers@1"]
    assert httpx.get(f"{images}/docs").status_code == 200
    assert httpx.get(f"http://127.0.0.1:{here.prefect_port}/api/health").status_code == 200
    assert "on the pool machines" in here.until("deploy  | ")
    here.until("worker  | Worker '")
    processes = here.below()
    worker = [one for one in processes if b"worker\0start" in Path(f"/proc/{one}/cmdline").read_bytes()]
    assert len(worker) == 2  # it and its launcher
    os.kill(max(worker), signal.SIGKILL)
    assert here.end() == 1
    assert "flows.up: worker has ended with exit code" in here.lines[-1]
    assert not [one for one in processes if running(one)]


def test_ctrl_c_ends_all_that_has_started(
    project: Path, start: Callable[..., Up], running: Callable[[int], bool]
) -> None:
    here = start(project)
    here.until("serve   | listening on")
    processes = here.below()
    assert len(processes) >= 5  # it, two programs and their launchers
    here.process.send_signal(signal.SIGINT)
    assert here.end() == 0
    assert "ending all" in here.lines
    assert not [one for one in processes if running(one)]
    assert "Traceback" not in "".join(here.lines)


def test_what_a_killed_program_leaves_behind_is_ended_too(tmp_path: Path, running: Callable[[int], bool]) -> None:
    # a worker that starts a run in a session of its own, and is killed
    worker = (
        "import os, pathlib, subprocess, sys, time\n"
        "run = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        "pathlib.Path('run').write_text(str(run.pid))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    (tmp_path / "worker.py").write_text(worker)
    code = (
        "import ctypes, os, time\n"
        "from flows import up\n"
        "ctypes.CDLL(None).prctl(up._PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)\n"
        "programs = up.Programs(dict(os.environ))\n"
        "programs.start('worker', 'worker')\n"
        "try:\n"
        "    programs.wait(60)\n"
        "except up.Failed as error:\n"
        "    print(error)\n"
        "programs.end()\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=80
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("worker has ended with exit code ")
    assert not running(int((tmp_path / "run").read_text()))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--port", "PORT"], "port: cannot listen on 127.0.0.1:PORT: Address already in use; take another --port"),
        (
            ["--prefect-port", "PORT"],
            "prefect-port: cannot listen on 127.0.0.1:PORT: Address already in use; take another --prefect-port",
        ),
        (["--port", "4200"], "prefect-port: found 4200, which is the --port too; take another"),
        (["--port", "70000"], "port: cannot listen on 127.0.0.1:70000: "),
        (["--models", "flowers"], "models: are those of a registry; add --registry REPOSITORY"),
        (["--project", "nowhere"], "project: found nowhere, which has no dvc.yaml; expected the folder of a project"),
        (["--registry", "."], "PROJECT/params.yaml: models: found None; expected a list of names, or --models NAME..."),
    ],
)
def test_what_cannot_be_is_one_line(
    project: Path,
    arguments: list[str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(up.Programs, "start", lambda *_: pytest.fail("a program was started"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ports = [str(free) for free in free_ports(2)]
        free = [] if "--prefect-port" in arguments or "4200" in arguments else ["--prefect-port", ports[0]]
        free += [] if "--port" in arguments else ["--port", ports[1]]
        assert (
            up.main(["--project", str(project), *free, *(port if word == "PORT" else word for word in arguments)]) == 2
        )
    said = capsys.readouterr().err
    assert said.startswith(
        f"flows.up: {line.replace('PORT/', '').replace('PORT', port).replace('PROJECT', str(project))}"
    )
    assert said.count("\n") == 1
