"""One training at a time on a device, whoever starts it; a holder that is killed holds nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import torch
import yaml

from ganlib import stages
from ganlib.config import merge
from ganlib.devices import VARIABLE, alone_on, lock_folder
from ganlib.families.registry import family
from ganlib.problems import Refused
from ganlib.project import Project
from ganlib.training import reservation
from tests.conftest import make_split, write_prepared

HOLD = """
import sys, time
from ganlib.devices import alone_on
with alone_on(sys.argv[2:], sys.argv[1], print):
    print("holds", flush=True)
    time.sleep(60)
"""

# Two processes in torchrun's environment: what each says, with the time.
TOGETHER = """
import os, sys, time
from ganlib.training.reservation import reserved
if os.environ["LOCAL_RANK"] == "0":
    time.sleep(float(sys.argv[1]))
with reserved(["one", "two"], "train", print):
    print(time.time(), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "locks"))
    return tmp_path / "locks"


def start(what: str, *devices: str) -> subprocess.Popen[str]:
    """Another process that holds devices."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, what, *devices], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "holds\n"
    return process


def test_who_waits_says_for_whom_and_goes_on_when_the_holder_is_killed(folder: Path) -> None:
    before = datetime.now().astimezone().replace(microsecond=0)
    with start("train other", "GPU-1", "GPU-2") as other:
        said: list[str] = []

        def report(line: str) -> None:
            said.append(line)
            other.kill()

        with alone_on(["GPU-2"], "train mine", report, every=0.1):
            assert json.loads((folder / "GPU-2.json").read_text())["process"] == os.getpid()
            other.wait()
    (line,) = said
    assert line.startswith(f"train mine: waits for GPU-2, which process {other.pid} has had since ")
    since, _, what = line.partition(" has had since ")[2].partition(" ")
    assert before <= datetime.fromisoformat(since) <= before + timedelta(minutes=1)
    assert what == "(train other)"
    assert not (folder / "GPU-2.json").exists()


def test_other_devices_are_free() -> None:
    with start("train other", "GPU-1") as other:
        said: list[str] = []
        with alone_on(["GPU-2", "GPU-3"], "train mine", said.append):
            assert other.poll() is None
        other.kill()
    assert said == []


def test_a_device_is_given_back_after_an_error() -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), alone_on(["GPU-1"], "train", pytest.fail):
            raise ZeroDivisionError


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_those_that_take_several_never_wait_for_each_other() -> None:
    taken: list[tuple[str, ...]] = []
    inside = threading.Semaphore(1)

    def take(*devices: str) -> None:
        for _ in range(10):
            with alone_on(devices, "train", lambda line: None, every=0.01):
                assert inside.acquire(blocking=False)
                taken.append(devices)
                inside.release()

    threads = [in_thread(lambda: take("a", "b")), in_thread(lambda: take("b", "a"))]
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert len(taken) == 20


def test_nothing_is_locked_without_a_device_or_where_it_is_switched_off(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reservation.own_devices(torch.device("cpu")) == []
    with alone_on([], "train", pytest.fail), reservation.reserved([], "train", pytest.fail):
        assert not folder.exists()
    with start("train other", "GPU-1") as other:
        monkeypatch.setenv(VARIABLE, "off")
        with alone_on(["GPU-1"], "train", pytest.fail):
            assert other.poll() is None
        other.kill()


def test_the_folder_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = lock_folder()
    assert made == tmp_path / f"ganlib-{os.getuid()}"
    assert made.stat().st_mode & 0o777 == 0o700
    stranger = os.getuid() + 1
    made.rename(made.with_name(f"ganlib-{stranger}"))
    monkeypatch.setattr(os, "getuid", lambda: stranger)
    with pytest.raises(Refused, match=r"found another user's folder; name one .* by GANLIB_DEVICE_LOCKS$"):
        lock_folder()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file" / "below"))
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match=r"file/below: no folder for the devices' locks: Not a directory; name one by"):
        lock_folder()


def test_a_lock_that_cannot_be_made_is_one_line(folder: Path) -> None:
    (folder / "GPU-1.lock").mkdir(parents=True)
    refused = r"GPU-1\.lock: no lock: Is a directory; name another folder by GANLIB_DEVICE_LOCKS$"
    with pytest.raises(Refused, match=refused), alone_on(["GPU-1"], "train", pytest.fail):
        pass


def test_a_device_is_known_by_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        def __init__(self, number: int) -> None:
            self.uuid = f"{number}-cafe"

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_properties", Properties)
    assert reservation.own_devices(torch.device("cuda")) == ["GPU-0-cafe"]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert reservation.own_devices(torch.device("cuda")) == ["GPU-0-cafe", "GPU-1-cafe"]


def test_processes_that_train_together_begin_when_the_first_has_the_devices(folder: Path) -> None:
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    torchrun = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0",
    }  # fmt: skip
    with start("train other", "two") as other:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", TOGETHER, "0.5"],
                env=os.environ | torchrun | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        try:
            assert processes[0].stdout is not None
            waits = processes[0].stdout.readline()
            assert waits.startswith(f"train: waits for two, which process {other.pid} has had")
            assert json.loads((folder / "one.json").read_text())["process"] == processes[0].pid
            freed = time.time()
            other.kill()
            began = [float(process.stdout.readline()) for process in processes if process.stdout is not None]
            assert len(began) == 2
            assert all(freed <= time_of for time_of in began)
            for process in processes:
                assert process.communicate("")[0] == ""
                assert process.returncode == 0
        finally:
            for process in processes:
                process.kill()
                process.wait()


def test_the_stage_waits_for_its_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "project"
    write_prepared(make_split(count=40), place)
    section = merge(dict(family("dcgan").tiny), {"family": "dcgan", "steps": 1})
    (place / "params.yaml").write_text(yaml.safe_dump({"models": ["tiny"], "train": {"tiny": section}}))
    monkeypatch.setattr(reservation, "own_devices", lambda device: ["GPU-1"])
    said: list[str] = []
    with start("train other", "GPU-1") as other:

        def report(line: str) -> None:
            if not said:
                other.kill()
            said.append(line)

        stages.train(Project.open(place / "params.yaml"), "tiny", report)
    assert said[0].startswith(f"train tiny: waits for GPU-1, which process {other.pid} has had since ")
    assert said[1].startswith("tiny: dcgan on cpu")
    assert (place / "models/tiny/weights.safetensors").is_file()
