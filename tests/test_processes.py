"""A stage under a real process tree: a stand-in for dvc is killed, and the stage below must go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ganlib.processes import follow_parent

STAGE = """
import pathlib, signal, sys, time
{before}
from ganlib.processes import follow_parent
follow_parent(grace={grace}, every=0.05)
pathlib.Path(sys.argv[1]).write_text(str(__import__("os").getpid()))
time.sleep({seconds})
pathlib.Path(sys.argv[1]).with_name("finished").touch()
"""

DVC = """
import os, subprocess, sys
subprocess.run(sys.argv[1:], env={**os.environ, "DVC_STAGE": "train"})
"""

linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


def running(process: int) -> bool:
    """Whether a process runs: one that has ended and is not reaped counts as ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


def wait_for(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return met


class Tree:
    """A stand-in for dvc with a stage below it."""

    def __init__(self, folder: Path) -> None:
        self.written = folder / "process"
        self.finished = folder / "finished"

    def start(self, *command: str) -> None:
        self.dvc = subprocess.Popen([sys.executable, "-c", DVC, *command], stderr=subprocess.DEVNULL)
        assert wait_for(lambda: self.written.exists() and self.written.read_text())
        self.stage = int(self.written.read_text())

    def end(self) -> None:
        for process in (self.dvc.pid, self.stage):
            if running(process):
                os.kill(process, signal.SIGKILL)
        self.dvc.wait()


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    tree = Tree(tmp_path)
    yield tree
    tree.end()


def stage(tree: Tree, grace: float = 20.0, seconds: float = 60.0, before: str = "") -> list[str]:
    return [sys.executable, "-c", STAGE.format(grace=grace, seconds=seconds, before=before), str(tree.written)]


@linux
def test_a_stage_goes_when_its_dvc_is_killed(tree: Tree) -> None:
    tree.start(*stage(tree))
    tree.dvc.kill()
    assert wait_for(lambda: not running(tree.stage))
    assert not tree.finished.exists()


@linux
def test_a_stage_goes_though_a_shell_stands_between(tree: Tree) -> None:
    tree.start("sh", "-c", '"$@"; true', "sh", *stage(tree))  # two commands: the shell stays as the parent
    tree.dvc.kill()
    assert wait_for(lambda: not running(tree.stage))


@linux
def test_a_stage_that_ignores_the_request_is_cut_off_after_the_grace(tree: Tree) -> None:
    ignoring = "signal.signal(signal.SIGTERM, lambda *_: pathlib.Path(sys.argv[1]).with_name('asked').touch())"
    tree.start(*stage(tree, grace=0.3, before=ignoring))
    tree.dvc.kill()
    assert wait_for(lambda: not running(tree.stage))
    assert tree.written.with_name("asked").exists()
    assert not tree.finished.exists()


@linux
def test_a_stage_under_a_living_dvc_runs_to_its_end(tree: Tree) -> None:
    tree.start("sh", "-c", '"$@"; true', "sh", *stage(tree, seconds=0.5))
    assert tree.dvc.wait() == 0
    assert tree.finished.exists()


def test_nothing_is_watched_where_no_dvc_runs_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.delenv("DVC_STAGE", raising=False)
    before = threading.enumerate()
    follow_parent()
    assert threading.enumerate() == before
