"""Applications behind a real socket, and bytes sent to it one by one."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI

from ganlib.serving.app import Settings, create_app
from ganlib.serving.models import Models
from ganlib.serving.runtime import Runtime
from ganlib.serving.sources import Packages

PATIENCE = 20.0  # seconds for what takes none


@dataclass(frozen=True)
class Listening:
    """An application that listens.

    Attributes:
        port: on 127.0.0.1.
        app: what listens.
        client: speaks to it.
    """

    port: int
    app: FastAPI
    client: httpx.Client

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)


def application(*packages: Path, settings: Settings | None = None, runtime: Runtime | None = None) -> FastAPI:
    """The server's application for some packages, on the CPU."""
    models = Models([Packages(packages)], runtime or Runtime("cpu", workers=1), linger=0.0)
    return create_app(models, settings or Settings())


@contextmanager
def listening(app: FastAPI) -> Iterator[Listening]:
    """Serves it from a thread, its models loaded, until the block ends."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_config=None, access_log=False, timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until(lambda: server.started and app.state.models.ready)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
            yield Listening(port, app, client)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


def until(condition: Callable[[], object]) -> None:
    """Wait for it."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def read_response(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers in lower case and body of the next response."""
    with connection.makefile("rb") as stream:
        status = int(stream.readline().split()[1])
        headers = {}
        while line := stream.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return status, headers, stream.read(int(headers["content-length"]))
