"""Packages that all tests of serving share, and `ganlib serve` as a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.packages import build_package

SLOW = """\
import sys, threading, time
from ganlib.__main__ import main
from ganlib.inference.sample import Generator

seconds, render = float(sys.argv.pop(1)), Generator.render

def slow(self, z, condition):
    if "@" in threading.current_thread().name:  # a worker, not the trial before it
        time.sleep(seconds)
    return render(self, z, condition)

Generator.render = slow
main()
"""
"""Python that serves with the seconds of its first argument added to each run of a graph."""
PATIENCE = 30.0  # seconds for what takes one on an idle machine


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A package for each kind of condition, not to be changed: tiny-none, tiny-class, tiny-text."""
    folder = tmp_path_factory.mktemp("packages")
    return {kind: build_package(folder / kind, kind) for kind in ("none", "class", "text")}


class ServeProcess:
    """`ganlib serve` and what it says.

    Attributes:
        process: of the operating system.
        address: where it listens, as `http://127.0.0.1:PORT`.
    """

    def __init__(self, *arguments: object, slow: float | None = None) -> None:
        """
        Args:
            arguments: after `ganlib serve`.
            slow: seconds that each run of a graph takes longer.
        """
        start = ["-m", "ganlib"] if slow is None else ["-c", SLOW, str(slow)]
        self.process = subprocess.Popen(
            [sys.executable, *start, "serve", "--port", "0", "--device", "cpu", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.lines: list[str] = []
        self.log: list[str] = []
        self._new: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self.lines, self._new.put), daemon=True),
            threading.Thread(target=self._read, args=(self.process.stderr, self.log, lambda line: None), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        try:
            self.address = self.line("listening on ").removeprefix("listening on ")
        except BaseException:
            self.stop()
            raise

    def line(self, start: str) -> str:
        """Wait for the next line on standard output that starts so."""
        until = time.monotonic() + PATIENCE
        while True:
            line = self._new.get(timeout=max(0.0, until - time.monotonic()))
            assert line is not None, f"it ended: {self.lines} {self.log}"
            if line.startswith(start):
                return line

    def wait_until_ready(self) -> ServeProcess:
        until = time.monotonic() + PATIENCE
        while httpx.get(f"{self.address}/v2/health/ready").status_code != 200:
            assert time.monotonic() < until, (self.lines, self.log)
            time.sleep(0.02)
        return self

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for its end, and return the exit code."""
        code = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return code

    def records(self, message: str = "request") -> list[dict[str, Any]]:
        """The lines of its log that say so."""
        records = [json.loads(line) for line in self.log]
        return [record for record in records if record["message"] == message]

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.end()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def _read(self, stream: Any, lines: list[str], tell: Callable[[str | None], None]) -> None:
        for line in stream:
            lines.append(line.rstrip("\n"))
            tell(lines[-1])
        tell(None)


@pytest.fixture
def serve() -> Iterator[Callable[..., ServeProcess]]:
    """Starts `ganlib serve` with the arguments of `ServeProcess` on a free port, and ends it after the test."""
    started: list[ServeProcess] = []

    def start(*arguments: object, slow: float | None = None) -> ServeProcess:
        started.append(ServeProcess(*arguments, slow=slow))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.stop()
