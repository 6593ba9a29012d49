from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import flows.launcher

LAUNCHER = str(Path(flows.launcher.__file__))

# A command that, like dvc, ends by SIGTERM at once and leaves what it started to itself. That ends a moment after
# SIGTERM, having written that it did, or where it is stubborn never.
COMMAND = """
import subprocess, sys, pathlib
subprocess.run([sys.executable, "-c", sys.argv[1], *sys.argv[2:]])
"""
BELOW = """
import os, pathlib, signal, sys, time
folder, stubborn = pathlib.Path(sys.argv[1]), sys.argv[2] == "stubborn"
def end(*_):
    if not stubborn:
        time.sleep(0.2)
        (folder / "checkpoint").touch()
        sys.exit()
signal.signal(signal.SIGTERM, end)
(folder / "ids").write_text(f"{os.getpid()} {os.getppid()}")
while True:
    time.sleep(1)
"""


def launch(*command: str, starter: int | None = None, grace: float = 20.0) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, LAUNCHER, str(starter or os.getpid()), str(grace), *command], start_new_session=True
    )


def two_levels(folder: Path, manner: str = "ordinary") -> list[str]:
    return [sys.executable, "-c", COMMAND, BELOW, str(folder), manner]


def ids(folder: Path, eventually) -> list[int]:
    assert eventually(lambda: (folder / "ids").exists() and (folder / "ids").read_text())
    return [int(number) for number in (folder / "ids").read_text().split()]


@pytest.mark.parametrize("code", [0, 3, 255])
def test_the_exit_code_is_that_of_the_command(code: int) -> None:
    assert launch(sys.executable, "-c", f"raise SystemExit({code})").wait() == code


@pytest.mark.parametrize("killed", ["launcher", "command"])
def test_all_below_are_asked_to_end_and_waited_for(killed: str, tmp_path, eventually, running) -> None:
    launcher = launch(*two_levels(tmp_path))
    below, command = ids(tmp_path, eventually)
    if killed == "launcher":
        launcher.terminate()
    else:
        os.kill(command, signal.SIGKILL)
    assert launcher.wait() == 128 + signal.SIGTERM
    assert not running(below)
    assert (tmp_path / "checkpoint").exists()


def test_what_an_ended_command_leaves_behind_ends_too(tmp_path, eventually, running) -> None:
    leave = (
        "import pathlib, subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', *sys.argv[1:]])\n"
        "while not (pathlib.Path(sys.argv[2]) / 'ids').exists():\n"
        "    time.sleep(0.05)\n"
        "raise SystemExit(255)"
    )
    launcher = launch(sys.executable, "-c", leave, BELOW, str(tmp_path), "ordinary")
    below, _ = ids(tmp_path, eventually)
    assert launcher.wait() == 255
    assert not running(below)
    assert (tmp_path / "checkpoint").exists()


def test_what_does_not_end_is_cut_off(tmp_path, eventually, running) -> None:
    launcher = launch(*two_levels(tmp_path, "stubborn"), grace=0.2)
    below, command = ids(tmp_path, eventually)
    launcher.terminate()
    launcher.wait()
    assert eventually(lambda: not running(below) and not running(command))
    assert not (tmp_path / "checkpoint").exists()


def test_all_ends_when_the_starter_was_killed(tmp_path, eventually, running) -> None:
    start = (
        "import subprocess, sys, os, time\n"
        "command = [sys.executable, sys.argv[1], str(os.getpid()), '20', *sys.argv[2:]]\n"
        "subprocess.Popen(command, start_new_session=True)\n"
        "time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", start, LAUNCHER, *two_levels(tmp_path)])
    below, command = ids(tmp_path, eventually)
    assert running(below)
    starter.kill()
    starter.wait()
    assert eventually(lambda: not running(below) and not running(command))
    assert (tmp_path / "checkpoint").exists()
