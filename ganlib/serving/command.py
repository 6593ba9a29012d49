"""`ganlib serve`: options that are checked whole, an address that answers at once, and an end that loses nothing."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import uvicorn
from fastapi import FastAPI

from ganlib.inference.references import address_of, cache_of, package_of
from ganlib.inference.sample import ChosenPrecision
from ganlib.inference.session import Device
from ganlib.problems import Refused
from ganlib.serving.app import Settings, create_app
from ganlib.serving.logs import log_to_stderr
from ganlib.serving.models import Models
from ganlib.serving.registry_source import Registry
from ganlib.serving.runtime import Runtime
from ganlib.serving.sources import Packages, Repository, Source

_BETWEEN_LOOKS = {"folder": 2.0, "registry": 30.0}  # seconds; one is a listing here, the other git over the network
_KEEP_ALIVE = 75  # seconds that an idle connection stays open: longer than a load balancer keeps it


def serve(
    packages: Sequence[Path],
    repository: Path | None,
    report: Callable[[str], None],
    *,
    registry: str | None = None,
    cache: Path | None = None,
    keep: int = 2,
    interval: float | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: Path | None = None,
    device: Device = "auto",
    precision: ChosenPrecision = "auto",
    threads: int = 1,
    workers: int | None = None,
    queue: int = 256,
    timeout: float = 30.0,
    grace: float = 30.0,
    largest_body: int = 16 * 2**20,
    largest_count: int = 10,
    triton_repository: Path | None = None,
) -> None:
    """Serve packages until SIGTERM or SIGINT.

    After the first signal `/v2/health/ready` and new work are answered by 503, what was accepted is finished, and the
    server ends. A second signal ends it at once.

    Args:
        packages: folders; each is served as version 1 under the name in its card. With a registry, references to
            releases, such as flowers@prod.
        repository: in their place, a folder of NAME/VERSION/, looked at again and again.
        report: takes a line for the operator.
        registry: path or address of the git repository whose releases the packages are, followed as stages change.
        cache: where its packages are kept; None for a folder of the user's.
        keep: of a repository or registry: versions of a model that are served at most.
        interval: seconds between looks; None for 2 at a repository and 30 at a registry.
        host, port: where to listen; port 0 takes a free one.
        token_file: a file whose only line clients have to show as `Authorization: Bearer`.
        device, precision: see `Generator`.
        threads, workers, queue: see `Runtime`.
        timeout: seconds that a request may wait and run.
        grace: seconds after the first signal for what was accepted.
        largest_body: bytes of a request's body at most.
        largest_count: images of a request of the OpenAI API at most.
        triton_repository: write this folder for Triton in place of serving.

    Raises:
        Refused: before anything starts, for options that cannot be; and for a package that cannot be served.
        Failed: where a package fails.

    Where the grace is not enough, the process ends with exit code 1.
    """
    numbers: dict[str, tuple[float, float]] = {
        "keep": (keep, 1), "port": (port, 0), "threads": (threads, 0),
        "workers": (1 if workers is None else workers, 1), "queue": (queue, 1), "largest-body": (largest_body, 1),
        "largest-count": (largest_count, 1),
    }  # fmt: skip
    for option, (number, least) in numbers.items():
        if number < least:
            raise Refused(f"{option}: found {number}; expected {least:g} or more")
    if interval is None:
        interval = _BETWEEN_LOOKS["folder" if registry is None else "registry"]
    for option, seconds in {"interval": interval, "timeout": timeout, "grace": grace}.items():
        if not (math.isfinite(seconds) and seconds > 0):
            raise Refused(f"{option}: found {seconds:g}; expected seconds, above 0")
    if port > 65535:
        raise Refused(f"port: found {port}; expected 0 to 65535")
    if largest_count > queue:
        raise Refused(
            f"largest-count: found {largest_count}, and the queue holds {queue}; lower one or raise the other"
        )
    if triton_repository is not None:
        if registry is not None or repository is not None or not packages:
            raise Refused("triton-repository: is written from packages; name them, and no repository")
        from ganlib.serving.triton import write_repository

        write_repository(list(packages), triton_repository, report)
        return
    if (repository is None) == (not packages):
        raise Refused(
            "found neither packages nor a repository, or both; `ganlib serve PACKAGE...` or --repository FOLDER"
        )
    if registry is not None and repository is not None:
        raise Refused(f"registry: found {registry} and the repository {repository}; name one")
    if cache is not None and registry is None:
        raise Refused(f"cache: found {cache} without a registry; add --registry REPOSITORY")
    report = _whole_lines(report)
    source: Source
    if registry is not None:
        references = [str(package) for package in packages]
        source = Registry(references, address_of(registry), cache or cache_of(registry), keep=keep, report=report)
    elif repository is not None:
        source = Repository(repository)
    else:
        source = Packages([package_of(package, None, None) for package in packages])
    settings = Settings(timeout, largest_body, None if token_file is None else read_token(token_file), largest_count)
    runtime = Runtime(device, precision, threads, workers, queue)
    listening = listen(host, port)
    try:
        log_to_stderr()
        models = Models([source], runtime, keep=keep, interval=interval, report=report)
        server = Server(create_app(models, settings), models, grace, report)
        server.run(sockets=[listening])
    finally:
        listening.close()
    server.end()


class Server(uvicorn.Server):
    """uvicorn that turns new work away before it stops to listen, and ends when what was accepted is done."""

    def __init__(self, app: FastAPI, models: Models, grace: float, report: Callable[[str], None]) -> None:
        """
        Args:
            app: of `create_app`.
            models: its models.
            grace: seconds between the first signal and the end, at most.
            report: takes a line for the operator.
        """
        super().__init__(
            uvicorn.Config(
                app, log_config=None, access_log=False, ws="none", server_header=False, timeout_keep_alive=_KEEP_ALIVE
            )
        )
        self._app = app
        self._models = models
        self._grace = grace
        self._report = report
        self._signals = 0
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        for listening in sockets or ():
            self._report(f"listening on {_address(listening)}")
        self._app.state.loading.add_done_callback(self._loaded)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal: the first one drains, the second one ends the process."""
        self._signals += 1
        if self._signals > 1:
            _leave(128 + sig)
        if self._loop is None:  # before it listens
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._begin_to_drain, signal.Signals(sig).name)

    def end(self) -> None:
        """What is left to do after `run`: say how it ended.

        Raises:
            Refused, Failed: where a package that was asked for could not be served.
        """
        if self._failure is not None:
            raise self._failure
        self._report("stopped")
        if self._models.busy:  # loading a version that nobody waits for; the interpreter would
            _leave(0)

    def _loaded(self, task: asyncio.Task[None]) -> None:
        """The task that looks after the models has ended: where it failed, that is the end."""
        if self.should_exit or task.cancelled():
            return
        if (error := task.exception()) is not None:
            self._failure = error
            self.should_exit = True

    def _begin_to_drain(self, name: str) -> None:
        self._draining = asyncio.get_running_loop().create_task(self._drain(name))

    async def _drain(self, name: str) -> None:
        """Finish what was accepted, while new work is still turned away in words; then stop to listen."""
        state, loop = self._app.state, asyncio.get_running_loop()
        until = loop.time() + self._grace
        state.draining = True
        self._report(f"{name}: {state.active} requests are being finished, new ones are turned away")
        while state.active:
            if loop.time() >= until:
                print(
                    f"ganlib: cut off after {self._grace:g} s: {state.active} requests are not answered",
                    file=sys.stderr,
                    flush=True,
                )
                _leave(1)
            await asyncio.sleep(0.02)
        self.config.timeout_graceful_shutdown = max(1, math.ceil(until - loop.time()))
        self.should_exit = True


def _whole_lines(report: Callable[[str], None]) -> Callable[[str], None]:
    """`report` for several threads: no line begins within another."""
    lock = threading.Lock()

    def one(line: str) -> None:
        with lock:
            report(line)

    return one


def _leave(code: int) -> NoReturn:
    """End the process now: an interpreter that ends in order waits for the threads that render or load."""
    for handler in logging.getLogger("ganlib.serving").handlers:
        handler.flush()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound there.

    Raises:
        Refused: where the address is taken or none of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise Refused(
            f"port: cannot listen on {host}:{port}: {error.strerror}; take another --port or --host"
        ) from error
    return bound


def read_token(path: Path) -> str:
    """The token in a file's only line.

    Raises:
        Refused: where the file cannot be read or has no such line.
    """
    try:
        token = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"token-file: {path}: {getattr(error, 'strerror', None) or 'found more than ASCII'}") from error
    if not token or not token.isprintable() or " " in token:
        raise Refused(f"token-file: {path}: expected one line with a token, without blanks")
    return token


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
