"""Everything on one machine: `python -m flows.up`, which is `make up`.

It starts Prefect's server, a worker for the project, and `ganlib serve`, deploys what prefect.yaml says, tells where to
look, and shows what each of them says. They end together: by Ctrl-C, or when one of them ends. Exit codes: 0 ended by
whoever started it, 1 one of them ended by itself, 2 the request was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import yaml

from flows.exported import publish
from flows.launcher import end_group, launch
from flows.machine import PROJECT
from flows.pipeline import SETTINGS
from ganlib.problems import Failed, Refused

DEPLOYMENTS = Path(__file__).parents[1] / "prefect.yaml"
SERVED = ".served"  # folder of the project: the packages that were exported there
STARTUP = 120.0  # seconds for Prefect's server, which takes 5 to 15
GRACE = 30.0  # seconds between SIGTERM and SIGKILL: a training writes a checkpoint, a request is answered
BETWEEN_LOOKS = 2.0  # seconds between looks for exported packages
_PR_SET_CHILD_SUBREAPER = 36


class Programs:
    """What runs here, line by line in one output, and ended together."""

    def __init__(self, environment: dict[str, str]) -> None:
        """
        Args:
            environment: variables of all of them.
        """
        self._environment = environment
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._readers: list[threading.Thread] = []
        self._asked = threading.Event()

    def start(self, name: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a Python module by its arguments; its lines begin with the name from now on."""
        process = launch([sys.executable, "-m", *arguments], grace=GRACE, environment=self._environment)
        self._running[name] = process
        reader = threading.Thread(target=self._read, args=(name, process), daemon=True)
        reader.start()
        self._readers.append(reader)
        return process

    def ask_to_end(self, number: int = 0, frame: FrameType | None = None) -> None:
        """End them: a signal's handler."""
        self._asked.set()

    def wait(self, seconds: float) -> bool:
        """Wait, unless somebody asks for the end; whether somebody did.

        Raises:
            Failed: as soon as one of them has ended.
        """
        end = time.monotonic() + seconds
        while not self._asked.wait(min(0.2, max(0.0, end - time.monotonic()))):
            for name, process in self._running.items():
                if process.poll() is not None:
                    raise Failed(f"{name} has ended with exit code {process.returncode}, so all are ended; see above")
            if time.monotonic() >= end:
                return False
        return True

    def run(self, name: str, *arguments: str) -> bool:
        """Run a module to its end while the others run; False where somebody asks for the end of all.

        Raises:
            Failed: where it fails, or one of the others has ended.
        """
        process = self.start(name, *arguments)
        del self._running[name]
        try:
            while process.poll() is None:
                if self.wait(0.1):
                    return False
        finally:
            process.terminate()
            end_group(process, GRACE)
        if process.returncode:
            raise Failed(f"{name} has ended with exit code {process.returncode}, so all are ended; see above")
        return True

    def end(self) -> None:
        """End all: the last one first, so that a worker can tell the server what becomes of its runs."""
        for process in reversed(self._running.values()):
            process.terminate()
            end_group(process, GRACE)
        _end_orphans()
        for reader in self._readers:
            reader.join(1.0)

    def _read(self, name: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                say(f"{name:<8}| {line.rstrip()}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except (Refused, Failed) as error:
        print(f"flows.up: {error}", file=sys.stderr)
        return 2 if isinstance(error, Refused) else 1
    return 0


def _run(options: argparse.Namespace) -> None:
    project: Path = options.project.resolve()
    if not (project / "dvc.yaml").is_file():
        raise Refused(f"project: found {options.project}, which has no dvc.yaml; expected the folder of a project")
    if options.models and options.registry is None:
        raise Refused("models: are those of a registry; add --registry REPOSITORY")
    if options.registry is not None:
        options.models = options.models or _models(project)
    ours = "PREFECT_API_URL" not in os.environ
    ports = {"port": options.port} | ({"prefect-port": options.prefect_port} if ours else {})
    if len(set(ports.values())) < len(ports):
        raise Refused(f"prefect-port: found {options.prefect_port}, which is the --port too; take another")
    for option, port in ports.items():
        check_free(options.host, port, option)
    near = "127.0.0.1" if options.host == "0.0.0.0" else options.host
    page = f"http://{near}:{options.prefect_port}"
    address = f"{page}/api" if ours else os.environ["PREFECT_API_URL"]
    programs = Programs(
        SETTINGS | {"PYTHONUNBUFFERED": "1"} | dict(os.environ) | {"PREFECT_API_URL": address, PROJECT: str(project)}
    )
    if sys.platform == "linux":  # what a killed worker leaves behind becomes a child of this process, which ends it
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = {number: signal.signal(number, programs.ask_to_end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _work(programs, options, project, address, ours)
    finally:
        say("ending all")
        programs.end()
        for number, handler in before.items():
            signal.signal(number, handler)


def _work(programs: Programs, options: argparse.Namespace, project: Path, address: str, ours: bool) -> None:
    """Start everything in order, and look for exported packages until the end."""
    where = ["--host", options.host]
    if ours:
        programs.start("prefect", "prefect", "server", "start", *where, "--port", str(options.prefect_port))
    if options.registry is None:
        publish(project, project / SERVED)
        source = ["--repository", str(project / SERVED)]
    else:
        source = [*(f"{name}@prod" for name in options.models), "--registry", options.registry]
    programs.start("serve", "ganlib", "serve", *source, *where, "--port", str(options.port))
    until = time.monotonic() + STARTUP
    while not answers(f"{address}/health"):
        if time.monotonic() > until:
            raise Failed(f"Prefect's server at {address} has not answered for {STARTUP:.0f} s")
        if programs.wait(0.2):
            return
    if not programs.run("deploy", "flows.deployments", "--file", str(options.deployments)):
        return
    limit = ["--limit", str(options.limit)]
    programs.start("worker", "prefect", "worker", "start", "--pool", "machines", "--type", "process", *limit)
    _tell(options, project, address)
    problem = ""
    while not programs.wait(BETWEEN_LOOKS):
        if options.registry is not None:
            continue
        try:
            for version in publish(project, project / SERVED):
                say(f"{version} was exported and is served from {SERVED}")
            problem = ""
        except OSError as error:
            if str(error) != problem:
                problem = str(error)
                say(f"what was exported cannot be copied to {SERVED}: {error}")


def _models(project: Path) -> list[str]:
    """The models of a project.

    Raises:
        Refused: where its params.yaml names none.
    """
    file = project / "params.yaml"
    try:
        content = yaml.safe_load(file.read_text()) if file.is_file() else None
    except yaml.YAMLError as error:
        raise Refused(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    names = content.get("models") if isinstance(content, dict) else None
    if not isinstance(names, list) or not names:
        raise Refused(f"{file}: models: found {names!r}; expected a list of names, or --models NAME...")
    return [str(name) for name in names]


def _tell(options: argparse.Namespace, project: Path, address: str) -> None:
    """Where to look."""
    here = "127.0.0.1" if options.host == "0.0.0.0" else options.host
    models = f"the releases of {options.registry}" if options.registry else f"what {project} exports"
    say(f"Prefect's page     {address.removesuffix('/api')}  (start pipeline/by-hand or retrain/nightly there)")
    say(f"Images             http://{here}:{options.port}  ({models})")
    say(f"Its API, figures   http://{here}:{options.port}/docs  http://{here}:{options.port}/metrics")
    say(f"In other shells    export PREFECT_API_URL={address}")
    say("How it all works   docs/deployment.md; Ctrl-C ends everything")


def _end_orphans() -> None:
    """End what became a child of this process when the program above it was killed."""
    for number, seconds in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        until = time.monotonic() + seconds
        for child in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)
        while time.monotonic() < until:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    time.sleep(0.05)
            except ChildProcessError:
                return


def _children() -> list[int]:
    """Ids of the processes below this one."""
    listed = Path(f"/proc/{os.getpid()}/task").glob("*/children")  # of Linux; elsewhere there are no adopted ones
    return [int(child) for tasks in listed for child in tasks.read_text().split()]


def check_free(host: str, port: int, option: str) -> None:
    """
    Raises:
        Refused: where nothing can listen at a port.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as bound:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Refused(f"{option}: cannot listen on {host}:{port}: {reason}; take another --{option}") from error


def answers(address: str) -> bool:
    """Whether a server answers, whatever it says: one that wants a password does."""
    try:
        with urllib.request.urlopen(address, timeout=5.0):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def say(line: str) -> None:
    """A line for whoever looks, at once and in one piece: several threads say something."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flows.up", description="Everything on one machine.")
    parser.add_argument("--project", type=Path, default=Path(), help="folder with a dvc.yaml (default: this one)")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen; 0.0.0.0 for other machines")
    parser.add_argument("--port", type=int, default=8000, help="of the images (default 8000)")
    parser.add_argument("--prefect-port", type=int, default=4200, help="of Prefect's server and page (default 4200)")
    parser.add_argument(
        "--registry", metavar="REPOSITORY",
        help="serve the releases of this git repository (default: what the project exports)",
    )  # fmt: skip
    parser.add_argument(
        "--models", nargs="+", default=[], metavar="NAME", help="of --registry (default: all of params.yaml)"
    )
    parser.add_argument("--limit", type=int, default=2, help="runs of the worker at once (default 2)")
    parser.add_argument(
        "--deployments", type=Path, default=DEPLOYMENTS, help="default: prefect.yaml of this repository"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
