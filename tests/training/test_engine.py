"""The engine: a run that is cut anywhere ends with the weights of one that is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ganlib import models, stages
from ganlib.config import Train, merge
from ganlib.data.batches import Batches
from ganlib.data.store import Batch
from ganlib.families.registry import FAMILIES, family
from ganlib.problems import Failed
from ganlib.project import Project
from ganlib.training.ema import Average
from ganlib.training.engine import Engine
from ganlib.training.optimisers import rate
from ganlib.training.samples import Samples
from tests.conftest import make_split, write_prepared

CPU = torch.device("cpu")


def config(name: str, **given: Any) -> Train:
    """A tiny configuration of a family."""
    kind = family(name)
    every = {"family": name, "checkpoint_every": 4, "sample_every": 50, "log_every": 2, "steps": 12}
    return Train.model_validate_json(json.dumps(merge(merge(merge(kind.preset, kind.tiny), every), given)))


def engine(config: Train, run: Path, size: int = 8) -> Engine:
    split = make_split(size=size)
    kind = family(config.family)
    torch.manual_seed(config.seed)
    built = kind(split.spec, 6, kind.Network.model_validate(config.network), models.objective(config))
    batches = Batches(split, config.batch, config.seed, CPU, config.mismatch, config.captions)
    asked = {"none": None, "class": torch.tensor([0, 1]), "text": torch.zeros(2, 6)}[built.condition.kind]
    samples = Samples(torch.zeros(2, built.latent.size), asked, 2)
    return Engine("tiny", built, batches, config, samples, run, run / "board", lambda line: None)


def state(of: Engine) -> dict[str, torch.Tensor]:
    """Every tensor of a run, by its place."""
    flat: dict[str, torch.Tensor] = {}

    def walk(value: Any, place: str) -> None:
        if isinstance(value, torch.Tensor):
            flat[place] = value
        elif isinstance(value, dict):
            for key, part in value.items():
                walk(part, f"{place}/{key}")

    walk(of._state(), "")
    return flat


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


LAZY = {"penalties": {"r1": 1.0}, "penalty_every": 3, "precision": "bfloat16", "schedules": {}}


@pytest.mark.parametrize("given", [{}, LAZY], ids=["plain", "lazy-penalty-bfloat16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(name: str, given: dict[str, Any], tmp_path: Path) -> None:
    whole = engine(config(name, **given), tmp_path / "whole")
    whole.train()
    first = engine(config(name, **given), tmp_path / "cut")
    first.family.after_step = lambda values: first.stop() if first.step == 7 else None  # type: ignore[method-assign]
    with pytest.raises(Failed, match="stopped after step 7"):
        first.train()
    assert not same(state(first), state(whole))
    second = engine(config(name, **given), tmp_path / "cut")
    second.train()
    assert same(state(second), state(whole))
    lines = [(tmp_path / run / "history.jsonl").read_text().splitlines() for run in ("whole", "cut")]
    history = [
        [{k: v for k, v in json.loads(line).items() if k != "images_per_second"} for line in run] for run in lines
    ]
    assert history[0] == history[1]
    assert [entry["step"] for entry in history[0]] == [2, 4, 6, 8, 10, 12]


def test_a_longer_run_goes_on_where_a_shorter_one_ended(tmp_path: Path) -> None:
    whole = engine(config("dcgan"), tmp_path / "whole")
    whole.train()
    engine(config("dcgan", steps=8), tmp_path / "short").train()
    longer = engine(config("dcgan"), tmp_path / "short")
    longer.train()
    assert same(state(longer), state(whole))


def test_a_lazy_penalty_has_steps_of_its_own_with_the_discriminator_s_optimiser(tmp_path: Path) -> None:
    run = engine(config("dcgan", **LAZY), tmp_path)
    run.train()
    assert [phase.name for phase in run.course.chapters[0].phases] == ["discriminator", "penalty", "generator"]
    assert sorted(run.optimisers) == ["discriminator", "generator"]
    steps = {key: int(next(iter(opt.state.values()))["step"]) for key, opt in run.optimisers.items()}
    assert steps == {"discriminator": 12 + 12 // 3, "generator": 12}
    group = run.optimisers["discriminator"].param_groups[0]
    assert group["lr"] == pytest.approx(2e-4 * 3 / 4)  # c = k / (k + 1)
    assert group["betas"] == pytest.approx((0.5**0.75, 0.999**0.75))
    images = torch.randn(2, 3, 8, 8)
    critic = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 1))
    every, lazy = (
        models.objective(config("dcgan", penalties={"r1": 2.0}, penalty_every=n)).penalty(
            critic, critic, images, images, Batch(images)
        )
        for n in (1, 5)
    )
    assert lazy.item() == pytest.approx(5 * every.item())
    assert every.item() == pytest.approx(critic[1].weight.square().sum().item())  # 2 x 1/2 |gradient|^2


def test_discriminator_steps_come_before_each_generator_step_with_batches_of_their_own(tmp_path: Path) -> None:
    run = engine(config("dcgan", steps=4, discriminator_steps=3), tmp_path)
    seen: list[tuple[str, int]] = []
    for phase in run.course.chapters[0].phases:

        def spy(batch: Batch, of: Any = phase.loss, name: str = phase.name) -> Any:
            seen.append((name, int(batch.images.sum() * 1000)))
            return of(batch)

        object.__setattr__(phase, "loss", spy)
    run.train()
    assert [name for name, _ in seen] == ["discriminator", "discriminator", "discriminator", "generator"] * 4
    assert len({batch for name, batch in seen if name == "discriminator"}) == 12


def test_the_two_newest_checkpoints_are_kept_and_a_broken_one_is_passed_over(tmp_path: Path) -> None:
    whole = engine(config("dcgan", steps=16), tmp_path / "whole")
    whole.train()
    cut = engine(config("dcgan"), tmp_path / "cut")
    cut.train()
    kept = sorted(folder.name for folder in (tmp_path / "cut").glob("step-*"))
    assert kept == ["step-00000008", "step-00000012"]
    broken = tmp_path / "cut" / "step-00000012" / "state.pt"
    content = bytearray(broken.read_bytes())
    content[len(content) // 2] ^= 1
    broken.write_bytes(bytes(content))
    said: list[str] = []
    again = engine(config("dcgan", steps=16), tmp_path / "cut")
    again.report = said.append
    again.train()
    assert any("not what its manifest says" in line for line in said)
    assert any("resumes after step 8 of 16" in line for line in said)
    assert same(state(again), state(whole))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_sound_checkpoint(tmp_path: Path) -> None:
    class Poisoned(Batches):
        def __getitem__(self, number: int) -> Batch:
            batch = super().__getitem__(number)
            if number == 5:
                batch.images[0, 0, 0, 0] = float("nan")
            return batch

    broken = engine(config("dcgan", steps=40), tmp_path)
    broken.batches.__class__ = Poisoned
    with pytest.raises(
        Failed, match=r"discriminator.* is not finite by step 6; the last sound checkpoint is .*step-00000004"
    ):
        broken.train()
    assert [folder.name for folder in tmp_path.glob("step-*")] == ["step-00000004"]


def test_the_averaged_network_has_half_of_what_its_half_life_says() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, 0.0)
    average = Average(network)
    torch.nn.init.constant_(network.weight, 1.0)
    for step in range(10):
        average.update(network, batch=10, images_seen=10 * (step + 1), half_life=100)
    assert average.network.weight.item() == pytest.approx(0.5, rel=1e-5)
    average = Average(network)
    torch.nn.init.constant_(network.weight, 3.0)
    average.update(network, batch=10, images_seen=10, half_life=0)
    assert average.network.weight.item() == 3.0


def test_samples_come_from_the_averaged_networks(tmp_path: Path) -> None:
    run = engine(config("dcgan"), tmp_path)
    run.train()
    trained = run.family.networks["generator"]
    with run.averaged() as averaged:
        assert averaged.networks["generator"] is run.averages["generator"].network
        assert averaged.networks["generator"] is not trained
    assert run.family.networks["generator"] is trained
    with Image.open(tmp_path / "samples" / "step-00000012.png") as grid:
        assert grid.size == (2 * (96 + 4), 96 + 4)


def test_the_rate_falls_to_zero_at_the_end() -> None:
    falling = config("dcgan", steps=100, decay_from=0.5)
    assert [rate(falling, step) for step in (0, 49, 50, 75, 99)] == pytest.approx([1, 1, 1, 0.5, 0.02])
    assert rate(config("dcgan"), 11) == 1.0


def project(folder: Path, steps: int) -> Path:
    """A tiny project with a conditional model, on disk."""
    write_prepared(make_split(count=60), folder)
    train = config("cgan", steps=steps).model_dump(mode="json")
    params = {"models": ["tiny"], "ingest": {"size": 32}, "train": {"tiny": train}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return folder / "params.yaml"


def command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "ganlib", "train", "tiny", "--params", str(folder / "params.yaml")]


def wait_for_checkpoint(folder: Path, process: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + 120
    while not list(folder.glob(".checkpoints/tiny/*/step-*/manifest.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.01)


def trained(folder: Path) -> tuple[str, bytes]:
    """What a training says, and the weights that it ends with."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command(folder), env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list((folder / ".checkpoints" / "tiny").glob("*/"))  # deleted when the stage succeeds
    return done.stdout, (folder / "models" / "tiny" / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of a training that nobody kills."""
    folder = tmp_path_factory.mktemp("undisturbed")
    project(folder, steps=400)
    said, weights = trained(folder)
    assert "resumes after step" not in said
    return weights


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_training_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, how: signal.Signals, undisturbed: bytes
) -> None:
    project(tmp_path, steps=400)
    process = subprocess.Popen(
        command(tmp_path),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_for_checkpoint(tmp_path, process)
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (-9 if how == signal.SIGKILL else 1)
    assert ("the same command goes on from there" in errors) is (how == signal.SIGTERM)
    assert not (tmp_path / "models" / "tiny").exists()
    said, weights = trained(tmp_path)
    assert "resumes after step" in said
    assert weights == undisturbed


def test_changed_data_starts_fresh_and_a_model_of_other_data_is_not_used(tmp_path: Path) -> None:
    params = project(tmp_path, steps=12)
    said: list[str] = []
    opened = Project.open(params)
    stages.train(opened, "tiny", said.append)
    built, card = models.trained(opened, "tiny")
    images = models.sampler(built)(np.array([0, 1, 2]), 3, 5)
    assert images.shape == (3, 8, 8, 3)
    assert (images[1] == models.sampler(built)(np.array([1]), 1, 6)[0]).all()  # image i is that of seed + i
    assert card.images_seen == 12 * 8
    changed = np.load(tmp_path / "data/prepared/images.npy")
    changed[0] = 0
    np.save(tmp_path / "data/prepared/images.npy", changed)
    with pytest.raises(ValueError, match="trained on other data than"):
        models.trained(opened, "tiny")
