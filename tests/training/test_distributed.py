"""Several processes train what one trains, end together, and go on from each other's checkpoints."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock
from safetensors.torch import load_file
from torch import Tensor, nn

from ganlib import models, stages
from ganlib.config import Train, merge
from ganlib.data.batches import Batches
from ganlib.data.store import Batch
from ganlib.families.registry import FAMILIES, family
from ganlib.problems import Failed, Refused
from ganlib.project import Project
from ganlib.training import checkpoint
from ganlib.training.distributed import Ranks, ranks, synchronise_batch_norm
from ganlib.training.engine import Engine
from ganlib.training.samples import Samples
from tests.conftest import make_split, write_prepared

CPU = torch.device("cpu")
ALONE = Ranks()
LIMIT = 120  # seconds after which a process that should have ended is stuck


@contextmanager
def connected(count: int) -> Iterator[dict[str, str]]:
    """What torchrun puts into the environment of its processes, but for their numbers, while its store is served."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    yield {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


def together(count: int, work: Callable[..., None], *arguments: Any) -> list[int | None]:
    """Exit codes of `work(*arguments)` in `count` processes, in the environment that torchrun would give them."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(
        ["ganlib.stages", "ganlib.training.engine", "torch.utils.tensorboard", "torch._dynamo"]
    )
    with connected(count) as environment:
        processes = [
            forks.Process(
                target=_work, args=(environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, work, arguments)
            )
            for rank in range(count)
        ]
        try:
            for process in processes:
                process.start()
            for process in processes:
                process.join(LIMIT)
            return [process.exitcode for process in processes]
        finally:
            for process in processes:
                if process.pid is not None:
                    process.kill()
                    process.join()


def _work(environment: dict[str, str], work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    work(*arguments)


# Batch norm


class Everything(nn.Module):
    """All kinds of batch norm, one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Sequential(
            nn.BatchNorm2d(3),
            nn.Softplus(),
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4, affine=False, momentum=None),
            nn.Tanh(),
            nn.BatchNorm2d(4, track_running_stats=False),
            nn.Flatten(),
            nn.Linear(16, 5),
            nn.BatchNorm1d(5),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x)


def batch_norm_results(network: nn.Module, x: Tensor, among: Ranks) -> dict[str, Tensor]:
    """Outputs, gradients through a gradient penalty, and statistics, from the slice of each process."""
    found: dict[str, Tensor] = {}
    x = x.chunk(among.count)[among.rank].clone().requires_grad_()
    for turn in range(2):
        network.zero_grad()
        y = network(x)
        (slope,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        loss = y.square().mean() + 1e-3 * (slope.flatten(1).norm(dim=1) - 1).square().mean()
        (by_x,) = torch.autograd.grad(loss, x, retain_graph=True)
        loss.backward()
        among.average([parameter.grad for parameter in network.parameters() if parameter.grad is not None])
        found |= {f"y{turn}": among.gather(y.detach()), f"slope{turn}": among.gather(slope.detach())}
        found[f"by_x{turn}"] = among.gather(by_x) / among.count  # of the mean of the losses of all
    found |= {
        f"by/{name}": parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None
    }
    found |= {f"state/{name}": value.clone() for name, value in network.state_dict().items()}
    found["evaluated"] = among.gather(network.eval()(x.detach()))
    return found


def batch_norm_slices(folder: Path) -> None:
    with ranks(CPU) as among:
        network, x = torch.load(folder / "given.pt", weights_only=False)
        synchronise_batch_norm(network)
        torch.save(batch_norm_results(network, x, among), folder / f"{among.rank}.pt")
        half = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        half.load_state_dict(torch.load(folder / "half.pt"))
        synchronise_batch_norm(half)
        with torch.autocast("cpu", torch.bfloat16):
            torch.save(half(x.chunk(among.count)[among.rank].float()), folder / f"half-{among.rank}.pt")


def test_batch_norm_over_three_processes_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, x = Everything().double(), 3 + 2 * torch.randn(6, 3, 4, 4, dtype=torch.float64)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    half = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    torch.save((network, x), tmp_path / "given.pt")
    torch.save(half.state_dict(), tmp_path / "half.pt")
    assert together(3, batch_norm_slices, tmp_path) == [0, 0, 0]
    with torch.autocast("cpu", torch.bfloat16):
        halves = half(x.float())
    whole = batch_norm_results(network, x, ALONE)
    assert any(name.startswith("by/") for name in whole)
    for rank in range(3):
        slices = torch.load(tmp_path / f"{rank}.pt")
        assert slices.keys() == whole.keys()
        for name, value in whole.items():
            torch.testing.assert_close(slices[name], value, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
        part = torch.load(tmp_path / f"half-{rank}.pt")
        assert part.dtype == halves.dtype == torch.bfloat16
        torch.testing.assert_close(part, halves.chunk(3)[rank], rtol=2**-7, atol=2**-7)


# Training


def config(name: str, **given: Any) -> Train:
    """A tiny configuration that rounding does not grow in: plain gradient steps in float32."""
    slow = {"name": "sgd", "lr": 0.02, "momentum": 0.5, "clip_weights": None}
    every = {"family": name, "checkpoint_every": 50, "sample_every": 50, "log_every": 50, "steps": 10, "batch": 16}
    ours = {"precision": "float32", "schedules": {}, "generator": slow, "discriminator": slow}
    kind = family(name)
    section = merge(merge(merge(merge(kind.preset, kind.tiny), every), ours), given)
    return Train.model_validate_json(json.dumps(section))


def engine(config: Train, run: Path, among: Ranks = ALONE, **more: Any) -> Engine:
    split = make_split(size=8)
    kind = family(config.family)
    torch.manual_seed(config.seed)
    built = kind(split.spec, 6, kind.Network.model_validate(config.network), models.objective(config))
    for network in built.networks.values():
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # torch's own draws are not those of the whole batch
    share = (among.rank, among.count)
    batches = Batches(split, config.batch, config.seed, CPU, config.mismatch, config.captions, share)
    asked = {"none": None, "class": torch.tensor([0, 1]), "text": torch.zeros(2, 6)}[built.condition.kind]
    samples = Samples(torch.zeros(2, built.latent.size), asked, 2)
    return Engine("tiny", built, batches, config, samples, run, run / "board", lambda line: None, ranks=among, **more)


def tensors(value: Any, place: str = "") -> dict[str, Tensor]:
    """All tensors of a nested state, by their places."""
    if isinstance(value, Tensor):
        return {place: value}
    parts = value.items() if isinstance(value, dict) else ()
    return {inner: tensor for key, part in parts for inner, tensor in tensors(part, f"{place}/{key}").items()}


def errors(begun: dict[str, Tensor], expected: dict[str, Tensor], found: dict[str, Tensor]) -> dict[str, float]:
    """For each network, average, optimiser and state: how far `found` is from `expected`, relative to the way there.

    What an optimiser remembers shows an error of the gradients that hides in the last digits of the weights.
    """
    squares: dict[str, list[float]] = {}
    for place, value in expected.items():
        if value.is_floating_point():
            apart, way = squares.setdefault("/".join(place.split("/")[1:3]), [0.0, 0.0]), value
            if place in begun:
                way = value - begun[place]
            apart[0] += (found[place] - value).double().square().sum().item()
            apart[1] += way.double().square().sum().item()
    return {part: (apart / way) ** 0.5 if way else apart for part, (apart, way) in squares.items()}


FAST = {"name": "sgd", "lr": 0.2, "momentum": 0.5}
CASES = {
    "gathered logits": config(
        "dcgan", loss="relativistic-average", penalties={"lecam": 0.1}, generator=FAST, discriminator=FAST
    ),
    "second derivatives": config("cgan", penalties={"r1": 0.1, "gradient-penalty": 0.1}),
    "lazy penalties": config("cgan", penalties={"r2": 0.1}, penalty_every=2, discriminator_steps=2, steps=6),
    "noise and augmentation": config("gan-cls", instance_noise=0.1, augment={"name": "diffaugment"}, steps=6),
    "parts": config("r3gan", accumulate=2, augment=None, steps=4),
    **{f"family {name}": config(name, steps=2) for name in FAMILIES},
}


def lonely_norm(of: Engine) -> None:
    for network in of.family.networks.values():
        for module in network.modules():
            module.__dict__.pop("forward", None)


def lonely_losses(of: Engine) -> None:
    of.family.objective.gather = lambda values: values


class LonelyDraws(torch.Generator):
    def manual_seed(self, seed: int) -> torch.Generator:
        return super().manual_seed(seed + int(os.environ["RANK"]))


def lonely_draws(of: Engine) -> None:
    of.generator = LonelyDraws()


CONTROLS: dict[str, tuple[Callable[[Engine], None], str]] = {
    "batch norm of each slice": (lonely_norm, "second derivatives"),
    "losses of each slice": (lonely_losses, "gathered logits"),
    "draws of each process": (lonely_draws, "second derivatives"),
}
FOLLOWING = config("dcgan", generator_penalties={"path-length": 1.0}, steps=4)


def follow(of: Engine) -> None:
    """Give the generator a buffer that follows the mean latent of what it sees in training."""
    generator = of.family.networks["generator"]
    generator.register_buffer("followed", torch.zeros(of.family.latent.size))

    def move(network: Any, given: tuple[Tensor]) -> None:
        network.followed.lerp_(given[0].detach().mean(0), 0.1)

    generator.register_forward_pre_hook(move)


TRAINED: dict[str, tuple[Train, Callable[[Engine], None] | None]] = {
    **{name: (case, None) for name, case in CASES.items()},
    **{name: (CASES[of], broken) for name, (broken, of) in CONTROLS.items()},
    "following": (FOLLOWING, follow),
}


def train_cases(folder: Path) -> None:
    with ranks(CPU) as among:
        for name, (case, broken) in TRAINED.items():
            run = engine(case, folder / name / "run", among)
            if broken is not None:
                broken(run)
            run.train()
            torch.save(tensors(run._state()), folder / name / f"{among.rank}.pt")


def history(run: Path) -> dict[str, float]:
    """The last scalars of a run, but for those that tell the time and those of its own slice of the real images."""
    last = json.loads((run / "history.jsonl").read_text().splitlines()[-1])
    return {key: value for key, value in last.items() if key not in ("images_per_second", "sample_spread")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes ended with, by case."""
    folder = tmp_path_factory.mktemp("trained")
    for name in TRAINED:
        (folder / name / "run").mkdir(parents=True)
    assert together(2, train_cases, folder) == [0, 0]
    return folder


def test_two_processes_train_what_one_does(tmp_path: Path, trained: Path) -> None:
    for name, case in CASES.items():
        (tmp_path / name).mkdir()
        alone = engine(case, tmp_path / name)
        begun = {place: tensor.clone() for place, tensor in tensors(alone._state()).items()}
        alone.train()
        expected = tensors(alone._state())
        first, second = (torch.load(trained / name / f"{rank}.pt") for rank in range(2))
        assert first.keys() == second.keys() == expected.keys()
        assert all(torch.equal(first[place], second[place]) for place in first), name
        found = errors(begun, expected, first)
        assert max(found.values()) < 2e-4, (name, found)
        logged, wanted = history(trained / name / "run"), history(tmp_path / name)
        for key in wanted if name != "parts" else ("loss_discriminator", "loss_generator"):
            # a part of a slice is not a part of the whole batch: means within parts are of other items
            assert logged[key] == pytest.approx(wanted[key], rel=1e-4, abs=1e-6), (name, key)
        for control, (_, of) in CONTROLS.items():
            if of == name:  # the same without one of the three things that the processes do together
                missed = errors(begun, expected, torch.load(trained / control / "0.pt"))
                assert max(missed.values()) > 5e-3, (control, missed)


def test_what_follows_a_slice_follows_the_whole_batch(tmp_path: Path, trained: Path) -> None:
    alone = engine(FOLLOWING, tmp_path)
    follow(alone)
    alone.train()
    expected = tensors(alone._state())
    first, second = (torch.load(trained / "following" / f"{rank}.pt") for rank in range(2))
    for place in ("/objective/path-length", "/networks/generator/followed"):
        assert torch.equal(first[place], second[place])
        assert expected[place].abs().max() > 0
        torch.testing.assert_close(first[place], expected[place], rtol=1e-3, atol=1e-7)


# Ends


class Poisoned(Batches):
    def __getitem__(self, number: int) -> Batch:
        batch = super().__getitem__(number)
        if number == 2:
            batch.images[0, 0, 0, 0] = float("nan")
        return batch


def end_cases(folder: Path) -> None:
    with ranks(CPU) as among:
        scores = iter([3.0, 2.0, 2.5, 4.0, 1.0])

        def score(of: Any) -> float:
            assert among.first
            return next(scores)

        watched = config("dcgan", steps=40, best={"every": 2, "patience": 2})
        early = engine(watched, folder / f"early-{among.rank}", among, score=score)
        early.train()
        seen = {"step": torch.tensor([early.step, early.best.step]), **early.result()}
        torch.save(seen, folder / f"early-{among.rank}.pt")
        broken = engine(config("dcgan", steps=40, log_every=4), folder / f"broken-{among.rank}", among)
        if not among.first:
            broken.batches.__class__ = Poisoned
        with pytest.raises(Failed, match=r"discriminator.* is not finite by step 4"):
            broken.train()


def test_all_processes_end_after_the_same_step(tmp_path: Path) -> None:
    for run in ("early-0", "broken-0"):
        (tmp_path / run).mkdir()
    assert together(2, end_cases, tmp_path) == [0, 0]
    first, second = (torch.load(tmp_path / f"early-{rank}.pt") for rank in range(2))
    assert first["step"].tolist() == [8, 4]  # two measurements after the best
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not list(tmp_path.glob("*-1/*"))


def test_a_batch_that_does_not_fall_into_equal_parts_is_refused(tmp_path: Path) -> None:
    parts = config("dcgan", batch=16, accumulate=16)
    with pytest.raises(Refused, match=r"^train\.tiny\.batch: found 16; 2 processes take it in 16 parts each: .* 32$"):
        engine(parts, tmp_path, Ranks(1, 2))


def test_more_processes_than_cuda_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with connected(2) as environment:
        for key, value in (environment | {"RANK": "1", "LOCAL_RANK": "1"}).items():
            monkeypatch.setenv(key, value)
        with (
            pytest.raises(Refused, match="found 2 processes on a machine of 1 CUDA devices"),
            ranks(torch.device("cuda")),
        ):
            pass


# The stage

TINY = config(
    "cgan", steps=40, checkpoint_every=2, sample_every=20, log_every=10, start_from="models/first",
    best={"every": 10, "samples": 16},
)  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose model `first` is trained, and whose model `tiny` begins with its networks."""
    folder = tmp_path_factory.mktemp("project")
    write_prepared(make_split(count=60), folder)
    sections = {"first": config("cgan", steps=4), "tiny": TINY}
    params = {"models": ["tiny"], "ingest": {"size": 32}}
    train = {name: section.model_dump(mode="json") for name, section in sections.items()}
    (folder / "params.yaml").write_text(yaml.safe_dump(params | {"train": train}))
    train_here(folder, "first")
    return folder


def train_here(folder: Path, name: str = "tiny") -> list[str]:
    """What is said while this process trains alone."""
    said: list[str] = []
    stages.train(Project.open(folder / "params.yaml"), name, said.append)
    return said


def train_stage(machines: list[Path], said: Path) -> None:
    """The stage in one of several processes, each on a machine of its own; its lines go into a file."""
    rank = int(os.environ["RANK"])
    with (said / f"said-{rank}.txt").open("w") as file:
        try:
            project = Project.open(machines[rank] / "params.yaml")
            stages.train(project, "tiny", lambda line: print(line, file=file))
        except (Refused, Failed) as problem:
            print(f"{type(problem).__name__}: {problem}", file=file)
            raise SystemExit(2 if isinstance(problem, Refused) else 1) from None


def copied(project: Path, to: Path, **changes: Any) -> Path:
    shutil.copytree(project, to)
    params = yaml.safe_load((to / "params.yaml").read_text())
    params["train"]["tiny"] |= changes
    (to / "params.yaml").write_text(yaml.safe_dump(params))
    return to


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def networks(folder: Path, name: str = "tiny") -> dict[str, Tensor]:
    return load_file(folder / "models" / name / "state.safetensors")


def error(folder: Path, expected: Path) -> float:
    """How far the networks of `folder` are from the expected ones, relative to what those learnt."""
    found, wanted, begun = networks(folder), networks(expected), networks(expected, "first")
    assert found.keys() == wanted.keys() == begun.keys()
    weights = [name for name, value in wanted.items() if value.is_floating_point() and ".running_" not in name]
    apart = sum((found[name] - wanted[name]).square().sum().item() for name in weights)
    return float((apart / sum((wanted[name] - begun[name]).square().sum().item() for name in weights)) ** 0.5)


@pytest.fixture(scope="module")
def whole(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project where two processes on two machines have trained without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    machines = [copied(project, folder / f"machine{rank}") for rank in range(2)]
    shutil.rmtree(machines[1] / "models")
    before = files(machines[1])
    assert together(2, train_stage, machines, folder) == [0, 0]
    assert files(machines[1]) == before
    assert (folder / "said-1.txt").read_text() == ""
    said = (folder / "said-0.txt").read_text().splitlines()
    assert said[0] == "tiny: cgan on cpu and 1 more in float32, 40 steps of 16 images"
    assert len(said) == len(set(said))
    return machines[0]


def test_two_machines_without_a_shared_disk_train_what_one_does(project: Path, whole: Path, tmp_path: Path) -> None:
    alone = copied(project, tmp_path / "alone")
    train_here(alone)
    assert error(whole, alone) < 1e-3
    cards = [json.loads((folder / "models/tiny/card.json").read_text()) for folder in (whole, alone)]
    assert cards[0]["best"] == pytest.approx(cards[1]["best"], rel=1e-3)
    assert cards[0]["environment"]["hardware"] == "cpu and 1 more in float32"
    assert cards[0]["parent"] == cards[1]["parent"]
    assert (cards[0]["parent"]["folder"], cards[0]["parent"]["name"]) == ("models/first", "first")
    assert files(whole / "models") == files(alone / "models")


def test_a_problem_is_said_once_and_ends_all(project: Path, tmp_path: Path) -> None:
    def ended(*machines: Path) -> tuple[list[int | None], str]:
        codes = together(2, train_stage, list(machines), tmp_path)
        silent, said = sorted((tmp_path / f"said-{rank}.txt").read_text() for rank in range(2))
        assert silent == ""
        return codes, said

    uneven = copied(project, tmp_path / "uneven", batch=15)
    codes, said = ended(uneven, uneven)
    assert (codes, said) == ([2, 2], "Refused: train.*.batch: found 15; 2 processes share it: take a multiple of 2\n")
    changed = copied(project, tmp_path / "changed")
    np.save(changed / "data/prepared/images.npy", 255 - np.load(changed / "data/prepared/images.npy"))
    held = copied(project, tmp_path / "held")
    codes, said = ended(held, changed)
    assert codes == [1, 2]
    assert said.startswith(f"Refused: {changed}: params.yaml, data or ganlib of process 1 are not those of process 0;")
    with FileLock(held / ".checkpoints" / "tiny" / "lock"):
        codes, said = ended(held, held)
    assert codes == [1, 1]
    assert said.startswith("Failed: tiny: another process trains it (it holds ")


# torchrun


class Torchrun:
    """`torchrun --nproc-per-node 2 -m ganlib train tiny` in a project's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = f"GANLIB_TEST={folder}-{time.monotonic()}"
        variable, _, value = self.mark.partition("=")
        params = str(folder / "params.yaml")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
                *("-m", "ganlib", "train", "tiny", "--params", params),
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1", variable: value},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def processes(self) -> dict[str, int]:
        """Process ids of all that it started and that still run, by their numbers; "" for its own."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                environment = (entry / "environ").read_text().split("\0")
            except OSError:  # ended, or another user's
                continue
            if self.mark in environment:
                ranks = [line.removeprefix("RANK=") for line in environment if line.startswith("RANK=")]
                found[ranks[0] if ranks else ""] = int(entry.name)
        return found

    def wait_for_step(self, step: int) -> None:
        """Wait until there is a checkpoint of `step` or later."""
        limit = time.monotonic() + LIMIT
        while newest_step(self.folder) < step:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < limit
            time.sleep(0.01)

    def ended(self) -> tuple[int, list[str], str]:
        """Exit code, what the training said on standard output, and standard error."""
        out, errors = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, [line for line in out.splitlines() if line.startswith("tiny: ")], errors

    def kill(self) -> None:
        for process in self.processes().values():
            os.kill(process, signal.SIGKILL)
        self.process.communicate()


@contextmanager
def torchrun(folder: Path) -> Iterator[Torchrun]:
    started = Torchrun(folder)
    try:
        yield started
        assert not started.processes()
    finally:
        started.kill()


def newest_step(folder: Path) -> int:
    steps = folder.glob(".checkpoints/tiny/*/step-*/manifest.json")
    return max((int(manifest.parent.name.removeprefix("step-")) for manifest in steps), default=0)


def newest_state(folder: Path) -> dict[str, Any]:
    (run,) = folder.glob(".checkpoints/tiny/*/")
    said: list[str] = []
    found = checkpoint.newest(run, CPU, 1_000_000, said.append)
    assert found is not None
    assert not said  # none was broken
    return found[0]


def test_a_killed_process_ends_the_run_which_then_goes_on_to_the_same_bytes(
    project: Path, whole: Path, tmp_path: Path
) -> None:
    folder = copied(project, tmp_path / "killed")
    with torchrun(folder) as run:
        run.wait_for_step(2)
        os.kill(run.processes()["1"], signal.SIGKILL)
        since = time.monotonic()
        code, _, errors = run.ended()
        assert time.monotonic() - since < 20
        assert code == 1
        assert errors.count("ganlib: train: another process ended or cannot be reached") == 1, errors
    assert not (folder / "models" / "tiny").exists()
    step = newest_step(folder)
    assert 2 <= step < 40
    newest_state(folder)
    with torchrun(folder) as run:
        code, said, errors = run.ended()
        assert code == 0, errors
    assert said[0] == "tiny: cgan on cpu and 1 more in float32, 40 steps of 16 images"
    assert said[1] == f"tiny: resumes after step {step} of 40"
    assert len(said) == len(set(said))
    for file in ("weights.safetensors", "state.safetensors"):
        one, other = ((place / "models" / "tiny" / file).read_bytes() for place in (folder, whole))
        assert one == other, file


def test_a_run_goes_on_with_another_number_of_processes(
    project: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, save = copied(project, tmp_path / "mixed"), checkpoint.save

    def save_and_stop(*given: Any) -> None:
        save(*given)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched, pytest.raises(Failed, match="stopped after step 3;"):
        patched.setattr(checkpoint, "save", save_and_stop)
        train_here(folder)
    with torchrun(folder) as run:
        run.wait_for_step(6)
        run.process.send_signal(signal.SIGTERM)
        code, said, errors = run.ended()
        assert code != 0
        assert said[1] == "tiny: resumes after step 3 of 40"
        step = newest_step(folder)
        stopped = f"ganlib: tiny: stopped after step {step}; the same command goes on from there"
        assert errors.splitlines().count(stopped) == 1, errors
    newest_state(folder)
    assert f"tiny: resumes after step {step} of 40" in train_here(folder)
    assert error(folder, whole) < 1e-3
