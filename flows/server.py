"""A Prefect server for the time of one run, where none is configured.

Prefect would start one itself, and leave it running when the flow's process is killed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator

from prefect.client.orchestration import get_client
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.launcher import end_group, launch
from ganlib.problems import Failed

HOST = "127.0.0.1"
STARTUP = 120.0  # seconds; it takes 5 to 15 on a machine with nothing else to do
LAST_WORDS = 10.0  # seconds for logs and events that wait when the block ends
GRACE = 5.0  # seconds between SIGTERM and SIGKILL


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Run the block with a Prefect server and give its address: the configured one (PREFECT_API_URL), or one of our
    own with Prefect's usual database, which ends with the block or with this process, however that ends.

    Raises:
        Failed: where it does not start, or the configured one does not answer.
    """
    if configured := PREFECT_API_URL.value():
        with get_client(sync_client=True) as client:
            if (problem := client.api_healthcheck()) is not None:
                raise Failed(
                    f"PREFECT_API_URL: {configured} does not answer: {problem}; start that server, or unset it"
                )
        yield str(configured)
        return
    port = _free_port()
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    with tempfile.TemporaryFile() as said:
        command += ["--no-ui", "--no-scheduler", "--no-late-runs"]
        process = launch(command, grace=GRACE, environment=dict(os.environ), out=said)
        try:
            address = f"http://{HOST}:{port}/api"
            end = time.monotonic() + STARTUP
            while not _answers(f"{address}/health"):
                if process.poll() is not None or time.monotonic() > end:
                    said.seek(0)
                    last = said.read().decode(errors="replace").strip().splitlines()[-5:]
                    raise Failed(f"Prefect's server did not start: {' '.join(' '.join(last).split()) or 'no answer'}")
                time.sleep(0.1)
            with temporary_settings({PREFECT_API_URL: address}):
                try:
                    yield address
                finally:
                    _send_what_waits()
        finally:
            process.terminate()
            end_group(process, GRACE)


def _send_what_waits() -> None:
    """Hand logs and events that still wait to the server; without it they are tried again for over a minute at exit."""
    APILogWorker.drain_all(timeout=LAST_WORDS)
    EventsWorker.drain_all(timeout=LAST_WORDS)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5.0) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])
