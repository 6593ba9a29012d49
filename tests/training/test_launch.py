"""One command trains in several processes: its lines, problems, signals and ends are those of one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ganlib import stages
from ganlib.config import Train, merge, resume_key
from ganlib.families.registry import family
from ganlib.problems import Failed, Refused
from ganlib.project import Project
from ganlib.training import checkpoint
from ganlib.training.launch import launch
from tests.conftest import make_split, write_prepared

LIMIT = 60.0  # seconds after which something is stuck
SLOW = {"name": "sgd", "lr": 0.02, "momentum": 0.5}
SECTION = {
    **merge(dict(family("cgan").tiny), {"family": "cgan", "precision": "float32", "device": "cpu", "ranks": 2}),
    "generator": SLOW, "discriminator": SLOW, "batch": 16, "steps": 40,
    "checkpoint_every": 2, "sample_every": 20, "log_every": 20,
}  # fmt: skip


def project(folder: Path, **changes: object) -> Path:
    if not folder.exists():
        write_prepared(make_split(count=60), folder)
    params = {"models": ["tiny"], "ingest": {"size": 32}, "train": {"tiny": SECTION | changes}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return folder


def train_here(folder: Path) -> list[str]:
    said: list[str] = []
    stages.train(Project.open(folder / "params.yaml"), "tiny", said.append)
    return said


def networks(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "models" / "tiny" / "state.safetensors")


def error(folder: Path, expected: Path, begun: Path) -> float:
    """How far the networks of `folder` are from the expected ones, relative to what those learnt."""
    found, wanted, first = networks(folder), networks(expected), networks(begun)
    names = [name for name, value in wanted.items() if value.is_floating_point() and ".running_" not in name]
    apart = sum((found[name] - wanted[name]).square().sum().item() for name in names)
    return float((apart / sum((wanted[name] - first[name]).square().sum().item() for name in names)) ** 0.5)


def newest_step(folder: Path) -> int:
    steps = folder.glob(".checkpoints/tiny/*/step-*/manifest.json")
    return max((int(manifest.parent.name.removeprefix("step-")) for manifest in steps), default=0)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What one process ends with, and a project that has made one step only."""
    folder = tmp_path_factory.mktemp("alone")
    whole, first = project(folder / "whole", ranks=1), project(folder / "first", ranks=1, steps=1)
    train_here(whole)
    train_here(first)
    return whole, first


def test_the_stage_starts_its_processes_and_ends_with_the_weights_of_one(
    tmp_path: Path, alone: tuple[Path, Path]
) -> None:
    folder = project(tmp_path / "two")
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    said = train_here(folder)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert said[0] == "tiny: cgan on cpu and 1 more in float32, 40 steps of 16 images"
    assert said[-1].startswith("tiny: step 40/40")
    assert len(said) == len(set(said))
    assert 0 < error(folder, *alone) < 1e-3
    card = json.loads((folder / "models/tiny/card.json").read_text())
    assert (card["parameters"]["ranks"], card["environment"]["hardware"]) == (2, "cpu and 1 more in float32")
    one, other = ({str(path.relative_to(top)) for path in top.rglob("*")} for top in (folder, alone[0]))
    assert {name for name in one if not name.startswith("runs/")} == {name for name in other if "runs/" not in name}


def test_the_number_of_processes_is_no_part_of_what_a_run_is() -> None:
    one, two = (Train.model_validate(merge(dict(family("cgan").preset), SECTION | {"ranks": n})) for n in (1, 2))
    assert resume_key(one, False) == resume_key(two, False)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"ranks": 3}, r"ranks: found 3, which share a batch of 16; take a batch that is a multiple of 3$"),
        ({"accumulate": 16}, r"ranks: found 2, which share a batch of 16 in 16 parts each; take .* multiple of 32$"),
        ({"ranks": 0}, r"train\.tiny\.ranks: found 0;"),
    ],
)
def test_processes_that_cannot_share_a_batch_are_refused_before_anything_runs(
    tmp_path: Path, changes: dict[str, object], line: str
) -> None:
    with pytest.raises(Refused, match=line):
        Project.open(project(tmp_path / "project", **changes) / "params.yaml")


def test_more_processes_than_cuda_devices_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        Refused, match=r"^train\.tiny\.ranks: found 2, and torch sees 1 CUDA devices; take 1, or the cpu$"
    ):
        train_here(project(tmp_path / "project", device="cuda"))


# How they end


def refuse_second(report: Callable[[str], None]) -> None:
    report(f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']}, {torch.get_num_threads()} threads")
    if os.environ["RANK"] == "1":
        raise Refused("key: found that; expected this")
    time.sleep(LIMIT)


def die_second(report: Callable[[str], None]) -> None:
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(LIMIT)


def stop(report: Callable[[str], None]) -> None:
    def end(number: int, frame: object) -> None:
        raise Failed(f"process {os.environ['RANK']} stopped after step 7")

    signal.signal(signal.SIGTERM, end)
    report("ready")
    time.sleep(LIMIT)


def defect_second(report: Callable[[str], None]) -> None:
    if os.environ["RANK"] == "1":
        raise ZeroDivisionError("a defect")
    time.sleep(LIMIT)


def ended(work: Callable[..., None]) -> tuple[Exception, list[str]]:
    said: list[str] = []
    began = time.monotonic()
    with pytest.raises((Refused, Failed)) as caught:
        launch(work, 2, said.append)
    assert time.monotonic() - began < LIMIT / 2
    return caught.value, said


def test_a_problem_of_any_process_is_raised_here(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    problem, said = ended(refuse_second)
    assert isinstance(problem, Refused)
    assert str(problem) == "key: found that; expected this"
    assert sorted(said)[-1] == "process 1 of 2, 1 threads"
    assert capfd.readouterr() == ("", "")


def test_a_process_that_is_killed_ends_the_others() -> None:
    problem, _ = ended(die_second)
    assert isinstance(problem, Failed)
    assert str(problem) == (
        "train: process 1 of 2 ended by signal 9; the same command goes on from the last checkpoint"
    )


def test_sigterm_reaches_all_and_is_waited_for() -> None:
    said: list[str] = []

    def report(line: str) -> None:
        said.append(line)
        if len(said) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Failed, match=r"^process [01] stopped after step 7$"):
        launch(stop, 2, report)
    assert said == ["ready", "ready"]


def test_a_defect_keeps_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    problem, _ = ended(defect_second)
    assert "process 1 of 2 ended with exit code 1" in str(problem)
    errors = capfd.readouterr().err
    assert errors.count("ZeroDivisionError: a defect") == 1
    assert "defect_second" in errors


# The command


class Command:
    """`ganlib train tiny` in a project's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = f"GANLIB_TEST={folder}-{time.monotonic()}"
        variable, _, value = self.mark.partition("=")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ganlib", "train", "tiny", "--params", str(folder / "params.yaml")],
            env={**os.environ, "OMP_NUM_THREADS": "1", variable: value},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def processes(self) -> list[int]:
        """All that it started and that still run, itself among them."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                marked = self.mark in (entry / "environ").read_text().split("\0")
                running = (entry / "stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
            except OSError:  # ended, or another user's
                continue
            if marked and running:
                found.append(int(entry.name))
        return found

    def wait_for_step(self, step: int) -> None:
        limit = time.monotonic() + LIMIT
        while newest_step(self.folder) < step:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < limit
            time.sleep(0.01)

    def ended(self) -> tuple[int, list[str], str]:
        said, errors = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, said.splitlines(), errors

    def none_left(self) -> bool:
        limit = time.monotonic() + LIMIT
        while left := self.processes():
            if time.monotonic() > limit:
                return False
            time.sleep(0.05)
        return not left


@contextmanager
def command(folder: Path) -> Iterator[Command]:
    run = Command(folder)
    try:
        yield run
    finally:
        for process in run.processes():
            os.kill(process, signal.SIGKILL)
        run.process.wait()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_killed_launcher_leaves_no_process_and_any_number_goes_on(
    tmp_path: Path, alone: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, save = project(tmp_path / "mixed", ranks=1), checkpoint.save

    def save_and_stop(*given: object) -> None:
        save(*given)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched, pytest.raises(Failed, match=r"stopped after step 3;"):
        patched.setattr(checkpoint, "save", save_and_stop)
        train_here(folder)

    project(folder)
    with command(folder) as run:  # the launcher dies without a word to its processes
        run.wait_for_step(4)
        assert len(run.processes()) >= 3
        run.process.kill()
        assert run.none_left()
        code, said, _ = run.ended()
    assert code == -signal.SIGKILL
    assert said[0].startswith("train: {")
    assert said[2] == "tiny: resumes after step 3 of 40"
    assert len(said) == len(set(said))
    step = newest_step(folder)
    assert 4 <= step < 40

    project(folder, ranks=1)
    assert f"tiny: resumes after step {step} of 40" in train_here(folder)
    assert error(folder, *alone) < 1e-3
