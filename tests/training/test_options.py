"""What a run can be asked for beyond its length: schedules, accumulation, a warm start, the best weights, memory."""

from __future__ import annotations

import hashlib
import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ganlib import stages
from ganlib.card import ModelCard, Parent
from ganlib.config import Schedule
from ganlib.data.store import Batch
from ganlib.families.base import Chapter, Family, Phase
from ganlib.problems import Failed, Refused
from ganlib.project import Project
from ganlib.training.engine import Engine
from tests.conftest import make_split, write_prepared
from tests.training.test_engine import config, engine, same, state

METRIC = "sliced_wasserstein_distance"


def test_numbers_follow_their_schedules_in_images_seen(tmp_path: Path) -> None:
    """After 48 of 96 images, half of the way: rates, betas, weights and the families' own numbers."""
    given: dict[str, Any] = {
        "schedules": {
            "generator.lr": {"to": 0.0, "kimg": 0.096},
            "discriminator.betas.1": {"to": 0.9, "kimg": 0.096},
            "penalties.r1": {"to": 0.2, "kimg": 0.096, "shape": "cosine"},
            "augment.p": {"to": 0.0, "after": 0.048, "kimg": 0.048},
        },
        "generator": {"lr": 1e-3},
        "discriminator": {"betas": [0.5, 0.99]},
        "penalties": {"r1": 1.0},
        "augment": {"name": "diffaugment", "p": 0.8},
    }
    run = engine(config("dcgan", steps=6, **given), tmp_path)
    run.train()
    assert run.optimisers["generator"].param_groups[0]["lr"] == pytest.approx(1e-3 * (1 - 40 / 96))
    second = engine(config("dcgan", steps=7, **given), tmp_path)
    second.train()  # the step after 48 images
    assert second.optimisers["generator"].param_groups[0]["lr"] == pytest.approx(0.5e-3)
    assert second.optimisers["discriminator"].param_groups[0]["betas"] == pytest.approx((0.5, 0.945))
    assert second.family.objective.values["penalties.r1"] == pytest.approx(0.6)
    assert second.family.objective.values["augment.p"] == pytest.approx(0.8)


def test_a_schedule_is_flat_before_and_after() -> None:
    schedule = Schedule(to=2.0, kimg=10, after=5)
    assert [schedule.at(1.0, images) for images in (0, 5000, 10_000, 15_000, 99_000)] == [1, 1, 1.5, 2, 2]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"schedules": {"generator.rate": {"to": 0.0, "kimg": 1}}},
            ": schedules: found 'generator.rate'; a schedule",
        ),
        ({"accumulate": 3}, ": accumulate: found 3; a batch of 8 does not fall into such parts"),
        ({"label_smoothing": 0.1, "loss": "hinge"}, ".label_smoothing: loss hinge has no labels"),
        ({"augment": {"name": "ada"}}, ".augment.name: found 'ada'; expected one of diffaugment"),
        ({"generator_penalties": {"r1": 1.0}}, ".generator_penalties: found 'r1'; expected one of path-length"),
        ({"augment": {"name": "diffaugment", "q": 1}}, ".augment.q: "),
        ({"schedules": {"generator.lr": {"too": 0.0, "kimg": 1}}}, ".schedules.generator.lr.to"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(given: dict[str, Any], line: str, tmp_path: Path) -> None:
    section = {"family": "dcgan", "batch": 8, **given}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"models": ["a"], "train": {"a": section}}))
    with pytest.raises(Refused) as caught:
        Project.open(tmp_path / "params.yaml")
    assert f"train.a{line}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_batch_in_parts_is_the_batch(tmp_path: Path) -> None:
    """Without batch norm, and with stochastic gradient descent, which does not magnify rounding."""
    given: dict[str, Any] = {
        "network": {"discriminator_norm": False},
        "penalties": {"gradient-penalty": 1.0},  # draws a number for each image
        "generator": {"name": "sgd", "lr": 0.01},
        "discriminator": {"name": "sgd", "lr": 0.01},
        "precision": "float32",
        "steps": 4,
    }
    whole = engine(config("cgan", **given), tmp_path / "whole")
    parts = engine(config("cgan", accumulate=4, **given), tmp_path / "parts")
    for run in (whole, parts):
        for module in run.family.networks["generator"].modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.forward = lambda x: x  # type: ignore[method-assign]
        run.train()
    ones, others = state(whole), state(parts)
    moved = 0.0
    for key, value in engine(config("cgan", **given), tmp_path / "fresh").networks().items():
        if not key.startswith("average"):
            place = f"/networks/{key.partition('.')[0]}/{key.partition('.')[2]}"
            moved = max(moved, (ones[place] - value).abs().max().item())
            assert torch.allclose(ones[place], others[place], atol=1e-5), place
    assert moved > 1e-3


def test_adaptive_augmentation_goes_on_where_it_was(tmp_path: Path) -> None:
    given = {"augment": {"name": "ada-bgc", "target": -0.9, "every": 2, "ramp": 0.2}}
    whole = engine(config("dcgan", **given), tmp_path / "whole")
    whole.train()
    engine(config("dcgan", steps=8, **given), tmp_path / "cut").train()
    cut = engine(config("dcgan", **given), tmp_path / "cut")
    cut.train()
    assert 0 < whole.state["objective"]["p"] <= 12 * 8 / 200  # six moves of 16 images, up to all in one direction
    assert same(state(cut), state(whole))


def test_lecam_s_means_go_on_where_they_were(tmp_path: Path) -> None:
    given = {"penalties": {"lecam": 0.3}}
    whole = engine(config("dcgan", **given), tmp_path / "whole")
    whole.train()
    engine(config("dcgan", steps=8, **given), tmp_path / "cut").train()
    cut = engine(config("dcgan", **given), tmp_path / "cut")
    cut.train()
    assert (whole.state["objective"]["lecam"] != 0).all()
    assert same(state(cut), state(whole))


class Growing(Family):
    """Two generators, one after another; the second begins when the first is done, and its phase is conditional."""

    def __init__(self, of: Family) -> None:
        self.of = of
        self.networks = {"coarse": torch.nn.Linear(8, 8), "fine": torch.nn.Linear(8, 8)}
        self.settings, self.objective, self.latent, self.condition = of.settings, of.objective, of.latent, of.condition
        self.state = {"seen": torch.zeros(())}
        self.entered: list[tuple[int, float]] = []

    @classmethod
    def condition_kind(cls, network: Any) -> Any:
        return "none"

    def phases(self) -> tuple[Phase, ...]:
        return ()

    def curriculum(self) -> tuple[Chapter, ...]:
        fine = (
            Phase("fine", ("fine",), "generator", self.fine, fresh=True),
            Phase("never", ("coarse",), "generator", self.never, when=lambda values: bool(values["level"] > 9)),
        )
        coarse = Phase("coarse", ("coarse",), "generator", self.coarse)
        return Chapter("coarse", 0.5, (coarse,)), Chapter("fine", 0.5, fine)

    def coarse(self, batch: Batch) -> Any:
        return self.loss("coarse", batch)

    def fine(self, batch: Batch) -> Any:
        return self.loss("fine", batch)

    def never(self, batch: Batch) -> Any:
        raise AssertionError("this phase has a condition that is not met")

    def loss(self, key: str, batch: Batch) -> Any:
        self.state["seen"] += batch.images.sum()
        values = {"level": torch.tensor(float(key == "fine"))}
        return (self.networks[key](self.latents(batch)) - batch.images.mean()).square().mean(), values

    def enter(self, chapter: int, progress: float) -> None:
        self.entered.append((chapter, progress))

    def averaged(self) -> tuple[str, ...]:
        return ("coarse", "fine")

    def sample(self, z: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
        return self.networks["fine"](self.networks["coarse"](z)).tanh().view(-1, 1, 2, 4)


def test_a_family_in_chapters_resumes_in_any_of_them(tmp_path: Path) -> None:
    def growing(run: Path) -> Engine:
        built = engine(config("dcgan", checkpoint_every=2), run)
        torch.manual_seed(0)
        family = Growing(built.family)
        return Engine("t", family, built.batches, built.config, built.samples, run, run / "board", lambda line: None)

    def stop_after(run: Engine, step: int) -> None:
        run.family.after_step = lambda values: run.stop() if run.step == step else None  # type: ignore[method-assign]
        with pytest.raises(Failed, match=f"stopped after step {step}"):
            run.train()

    whole = growing(tmp_path / "whole")
    fresh = {key: value.clone() for key, value in whole.networks().items()}
    whole.train()
    assert whole.family.entered == [(0, k / 6) for k in range(6)] + [(1, k / 6) for k in range(6)]  # type: ignore[attr-defined]
    assert whole.images_seen == 12 * 8 + 6 * 8  # in the second chapter a fresh batch beside the shared one
    for step in (4, 5, 6, 7):
        cut = growing(tmp_path / f"cut{step}")
        stop_after(cut, step)
        if step < 6:
            now = cut.networks()
            assert torch.equal(now["fine.weight"], fresh["fine.weight"])
            assert not torch.equal(now["coarse.weight"], fresh["coarse.weight"])
        again = growing(tmp_path / f"cut{step}")
        again.train()
        assert same(state(again), state(whole))


def tiny_project(folder: Path, **given: Any) -> Project:
    folder.mkdir(exist_ok=True)
    if not (folder / "data").exists():
        write_prepared(make_split(count=60), folder)
    train = config("cgan", **given).model_dump(mode="json")
    (folder / "params.yaml").write_text(yaml.safe_dump({"models": ["tiny"], "train": {"tiny": train}}))
    return Project.open(folder / "params.yaml")


def test_a_warm_start_begins_with_the_networks_of_another_run(tmp_path: Path) -> None:
    stages.train(tiny_project(tmp_path, steps=6), "tiny", lambda line: None)
    (tmp_path / "models" / "tiny").rename(tmp_path / "models" / "champion")
    champion = load_file(tmp_path / "models" / "champion" / "state.safetensors")
    assert {name.partition(".")[0] for name in champion} == {"generator", "discriminator", "average"}
    still = {"lr": 1e-12, "betas": [0.5, 0.999]}
    project = tiny_project(tmp_path, steps=2, start_from="models/champion", generator=still, discriminator=still)
    stages.train(project, "tiny", lambda line: None)
    warm = load_file(tmp_path / "models" / "tiny" / "state.safetensors")
    for name, value in champion.items():
        if value.is_floating_point() and "running" not in name and not name.startswith("average"):
            assert torch.allclose(warm[name], value, atol=1e-9), name
    first = ModelCard.load(tmp_path / "models" / "champion" / "card.json")
    parent = ModelCard.load(tmp_path / "models" / "tiny" / "card.json").parent
    digest = hashlib.sha256((tmp_path / "models" / "champion" / "state.safetensors").read_bytes()).hexdigest()
    assert first.parent is None
    assert parent == Parent(folder="models/champion", sha256=digest, name="tiny", commit=first.commit)
    (tmp_path / "models" / "champion" / "card.json").unlink()
    stages.train(project, "tiny", lambda line: None)
    parent = ModelCard.load(tmp_path / "models" / "tiny" / "card.json").parent
    assert parent == Parent(folder="models/champion", sha256=digest)
    with pytest.raises(Refused, match=r"start_from: .*state\.safetensors: found the shape .* take a model of the same"):
        wider = tiny_project(tmp_path, steps=2, start_from="models/champion", network={"width": 8})
        stages.train(wider, "tiny", lambda line: None)
    with pytest.raises(Refused, match=r"nobody/state\.safetensors: no such file; name the folder of a trained model"):
        stages.train(tiny_project(tmp_path, steps=2, start_from="models/nobody"), "tiny", lambda line: None)


def test_the_best_weights_are_the_result_and_no_better_one_ends_the_run(tmp_path: Path) -> None:
    run = engine(config("dcgan", steps=40, best={"every": 2, "patience": 3}), tmp_path / "run")
    scores = iter([5.0, 3.0, 4.0, 4.5, 3.5, 0.0])
    weights: list[dict[str, torch.Tensor]] = []

    def score(family: Family) -> float:
        weights.append({key: value.clone() for key, value in family.networks["generator"].state_dict().items()})
        return next(scores)

    said: list[str] = []
    run.score, run.report = score, said.append
    run.train()
    assert run.step == 10
    assert (run.best.value, run.best.step, run.best.worse) == (3.0, 4, 3)
    assert all(torch.equal(run.result()[f"generator.{key}"], value) for key, value in weights[1].items())
    assert "ends early after step 10: no better sliced_wasserstein_distance than 3 after step 4" in said[-1]
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert [row[METRIC] for row in history if METRIC in row] == [5.0, 3.0, 4.0, 4.5, 3.5]


def test_the_best_weights_of_a_stage_are_on_its_card(tmp_path: Path) -> None:
    project = tiny_project(tmp_path, steps=6, best={"every": 2, "samples": 16})
    stages.train(project, "tiny", lambda line: None)
    card = ModelCard.load(project.model("tiny") / "card.json")
    history = [json.loads(line) for line in (project.model("tiny") / "history.jsonl").read_text().splitlines()]
    scores = {row["step"]: row[METRIC] for row in history if METRIC in row}
    assert sorted(scores) == [2, 4, 6]
    assert card.best[METRIC] == min(scores.values()) == scores[int(card.best["step"])]


def test_a_run_that_ends_early_leaves_what_one_that_ends_late_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends before the first grid, log entry and checkpoint were due."""
    given = {"best": {"every": 2, "patience": 1, "samples": 16}, "steps": 40}
    project = tiny_project(tmp_path, sample_every=20, log_every=20, checkpoint_every=20, **given)
    scores = iter([1.0, 2.0])
    monkeypatch.setattr("ganlib.training_run._score", lambda split, config: lambda family: next(scores))
    stages.train(project, "tiny", lambda line: None)
    model = project.model("tiny")
    card = ModelCard.load(model / "card.json")
    assert (card.steps, card.best) == (4, {METRIC: 1.0, "step": 2.0})
    assert [grid.name for grid in sorted((model / "samples").glob("*.png"))] == ["step-00000004.png"]
    last = json.loads((model / "history.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 4 and last["loss_generator"] > 0 and last[METRIC] == 2.0


@pytest.mark.filterwarnings("ignore:.*script_method. is deprecated:DeprecationWarning")  # torch's own, on import
def test_compiled_networks_learn_the_same(tmp_path: Path) -> None:
    given = {"steps": 2, "precision": "float32", "penalties": {"r1": 1.0}, "sample_every": 100}
    plain, compiled = (
        engine(config("dcgan", compile=chosen, **given), tmp_path / str(chosen)) for chosen in (False, True)
    )
    plain.train()
    compiled.train()
    assert compiled.family.networks["generator"]._compiled_call_impl is not None
    assert compiled.family.networks["discriminator"]._compiled_call_impl is None  # r1 is differentiated through it
    ones, others = plain.networks(), compiled.networks()
    assert all(torch.allclose(ones[key].float(), others[key].float(), atol=1e-4) for key in ones)


def test_memory_is_flat_over_a_long_run(tmp_path: Path) -> None:
    run = engine(config("dcgan", steps=900, log_every=50, checkpoint_every=100, sample_every=100), tmp_path)
    peaks: dict[int, int] = {}
    original = run.family.after_step

    def watch(values: Any) -> None:
        original(values)
        if run.step in (300, 900):
            peaks[run.step] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    run.family.after_step = watch  # type: ignore[method-assign]
    run.train()
    assert peaks[900] - peaks[300] < 3_000  # KiB; a batch kept by each of the 600 steps would be 3,600
