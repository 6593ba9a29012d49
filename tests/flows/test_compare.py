"""The stages of the project that is compared here are this file, run as a program."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from flows import compare, comparison_picture
from flows.comparison_picture import Row, Strip, cut, draw, pick, read_rows, real_strip, table, write
from flows.dvc import StageFailed
from ganlib.card import Condition, DatasetSpec, Latent, ModelCard
from ganlib.config import Boost, Train
from ganlib.problems import Failed, Refused

SIZE = 8
ADAM = {"lr": 0.001}
KNOWN = {
    "plain": {"description": "Plain: the one", "preset": {"loss": "non-saturating", "batch": 100, "generator": ADAM}},
    "critic": {
        "description": "Critic: the other",
        "preset": {"loss": "wasserstein", "batch": 10, "discriminator_steps": 5, "penalties": {"gradient": 10.0}},
    },
    "third": {"description": "Third: one more", "preset": {"loss": "hinge", "batch": 50}},
}
PLAN = {"kimg": 1, "families": {"plain": {}, "critic": {"seed": 13}}}
PARAMETERS = {
    "models": ["mine"],
    "ingest": {"source": "folder", "path": "data/raw"},
    "embed": {"encoder": "none"},
    "train": {"mine": {"family": "plain"}},
    "extractor": {},
    "evaluate": {"samples": 100, "seed": 3},
    "export": {},
}
STAGES = """
stages:
  ingest: {cmd: TOY ingest, deps: [data/raw], params: [ingest], outs: [data/prepared]}
  train:
    matrix: {model: "${models}"}
    cmd: TOY train ${item.model}
    deps: [data/prepared]
    params: ["train.${item.model}"]
    outs: ["models/${item.model}/card.json", "models/${item.model}/history.jsonl"]
  evaluate:
    matrix: {model: "${models}"}
    cmd: TOY evaluate ${item.model}
    deps: ["models/${item.model}/card.json"]
    params: [evaluate]
    outs: ["reports/${item.model}"]
  export:
    matrix: {model: "${models}"}
    cmd: TOY export ${item.model}
    deps: ["models/${item.model}/card.json"]
    outs: ["models/${item.model}/package"]
"""


def toy(folder: Path, stage: str, name: str = "") -> None:
    """A stage: what the real one would leave, as far as a comparison reads it."""
    with Path(os.environ.get("TOY_LOG", os.devnull)).open("a") as log:
        log.write(f"{stage} {name}".strip() + "\n")
    if stage == "ingest":
        prepared(folder / "data/prepared", classes=2)
    elif stage == "train":
        section = yaml.safe_load((folder / "params.yaml").read_text())["train"][name]
        if section.get("seed") == 13:
            sys.exit(f"ganlib: {name}: the loss is not finite by step 25; lower the learning rate")
        trained(folder, name, section["family"], steps=section["steps"], batch=section.get("batch", 10))
    else:
        reported(folder, name, 10.0)


def prepared(folder: Path, classes: int) -> None:
    """Twelve images, the first two of the train split: image i has the value 20 i and the label i % `classes`."""
    folder.mkdir(parents=True)
    images = np.full((12, SIZE, SIZE, 1), np.arange(12, dtype=np.uint8)[:, None, None, None] * 20)
    np.save(folder / "images.npy", images)
    labels = np.arange(12) % classes if classes else np.full(12, -1)
    items = pd.DataFrame({"split": ["train"] * 2 + ["test"] * 10, "label": labels})
    items.to_parquet(folder / "items.parquet", index=False)
    names = tuple(f"class {i}" for i in range(classes))
    counts = {"train": 2, "test": 10}
    DatasetSpec(name="toy", size=SIZE, channels=1, counts=counts, classes=names, mean=(0,), std=(1,)).save(
        folder / "dataset.json"
    )


def trained(folder: Path, name: str, family: str, steps: int, batch: int) -> None:
    """A model whose training took a minute and a half."""
    ModelCard(
        name=name,
        family=family,
        latent=Latent(size=4, distribution="normal"),
        condition=Condition(kind="none"),
        size=SIZE,
        channels=1,
        steps=steps,
        images_seen=steps * batch * 10,  # with those of generator steps
        parameters={"family": family, "batch": batch},
        data={},
    ).save(folder / "models" / name / "card.json")
    half = steps // 2
    lines: list[dict[str, float]] = [
        {"step": half, "images_per_second": half * batch / 60},
        {"step": half, "sample_spread": 0.5},
        {"step": steps, "images_per_second": (steps - half) * batch / 30},
    ]
    (folder / "models" / name / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def reported(folder: Path, name: str, distance: float, **metrics: float) -> np.ndarray:
    """A report with that Frechet distance; its samples are three rows of four, random."""
    from ganlib.evaluation.pictures import grid

    report = folder / "reports" / name
    (report / "pictures").mkdir(parents=True)
    numbers = {
        "diversity": 0.9,
        "frechet_distance": distance,
        "frechet_distance_floor": 1.5,
        "kernel_distance": distance / 100,
        "kernel_distance_floor": 0.0,
        "kernel_distance_std": 0.1,
    }
    (report / "metrics.json").write_text(json.dumps(numbers | metrics))
    how = {"generated": 100, "real": 10, "split": "test", "extractor_sha256": "0123456789abcdef"}
    (report / "protocol.json").write_text(json.dumps({"frechet_distance": how}))
    (report / "rows.txt").write_text("1 a\n2 b\n3 c\n")
    images = np.random.default_rng(0).integers(0, 256, (3, 4, SIZE, SIZE, 3), dtype=np.uint8)
    grid(list(images)).save(report / "pictures" / "samples.png")
    return images


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of toy stages with a plan; what `ganlib` would say of families and settings is known without it."""
    folder = tmp_path / "project"
    (folder / "data/raw").mkdir(parents=True)
    (folder / "data/raw/picture").write_text("raw")
    command = f"{shlex.quote(sys.executable)} -P {shlex.quote(str(Path(__file__).resolve()))}"
    (folder / "dvc.yaml").write_text(STAGES.replace("TOY", command))
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMETERS))
    (folder / "compare.yaml").write_text(yaml.safe_dump(PLAN, sort_keys=False))
    monkeypatch.setattr(compare, "_ganlib", lambda *asked: json.dumps(KNOWN) if asked[0] == "list" else "")
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return folder


def refusal(project: Path, *arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a request is refused with; nothing was written."""
    assert compare.main([str(project), *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("flows.compare: ") and said.count("\n") == 1
    assert not (project / "build").exists()
    return said.removeprefix("flows.compare: ").rstrip()


def of(**plan: Any) -> list[compare.Entry]:
    return compare.entries_of(compare.Plan.model_validate({"kimg": 1, "families": {"plain": None}} | plan), KNOWN)


def test_the_budget_is_divided_among_the_discriminator_steps() -> None:
    assert compare.steps_within(Train(family="a", batch=64), 10) == 156  # 9,984 images; 157 would be 10,048
    assert compare.steps_within(Train(family="a", batch=64, discriminator_steps=5), 10) == 31
    assert compare.steps_within(Train(family="a", batch=100), 0.1) == 1
    assert compare.steps_within(Train(family="a", batch=101), 0.1) == 0


def test_boosted_steps_count_as_many_as_they_show() -> None:
    from ganlib.families.objective import Repeats

    train = Train(family="a", batch=10, discriminator_steps=2, discriminator_boost=Boost(steps=5, warm_up=2, every=3))
    # images of the steps: 50 50 | 20 50 20 20 50
    assert [compare.steps_within(train, k / 1000) for k in (49, 50, 100, 119, 120, 189, 190)] == [0, 1, 2, 2, 3, 4, 5]
    shown = [10 * Repeats(2, 5, 2, 3).before(step) for step in range(60)]
    for step in range(1, 59):
        assert compare.steps_within(train, shown[step] / 1000) == step
        assert compare.steps_within(train, (shown[step + 1] - 1) / 1000) == step


def test_every_family_is_combined_with_every_loss() -> None:
    entries = of(
        families={"plain": {"generator": {"betas": [0.0, 0.9]}}, "critic": None},
        losses=["own", "hinge", "wasserstein"],
        defaults={"batch": 20, "generator": {"lr": 0.01}},
    )
    # critic with wasserstein is critic with its own
    assert [e.name for e in entries] == ["plain", "plain-hinge", "plain-wasserstein", "critic", "critic-hinge"]
    assert [e.train.loss for e in entries] == ["non-saturating", "hinge", "wasserstein", "wasserstein", "hinge"]
    assert [e.train.steps for e in entries] == [50, 50, 50, 10, 10]
    assert entries[1].section == {
        "family": "plain",
        "batch": 20,
        "generator": {"lr": 0.01, "betas": [0.0, 0.9]},
        "loss": "hinge",
        "steps": 50,
    }
    assert entries[0].train.generator.betas == (0.0, 0.9)
    assert entries[3].train.penalties == {"gradient": 10.0}


def test_the_losses_named_stand_alone_without_own() -> None:
    assert [e.name for e in of(families={"third": {}}, losses=["hinge"])] == ["third-hinge"]
    assert [(e.name, e.train.loss) for e in of(families={"third": {"loss": "minimax"}})] == [("third", "minimax")]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kimgs": 3}, "kimgs: unknown key; did you mean kimg?"),
        ({"kimg": 0}, "kimg: found 0; input should be greater than 0"),
        ({"kimg": float("inf")}, "kimg: found inf; input should be a finite number"),
        ({"kimg": 0.05}, "kimg: found 0.05; a single step of plain shows more images"),
        ({"families": {}}, "families: found {}; dictionary should have at least 1 item after validation, not 0"),
        ({"families": {"plane": {}}}, "families: found 'plane'; expected one of plain, critic, third"),
        ({"families": {"plain": {"bach": 3}}}, "train.plain.bach: unknown key; did you mean batch?"),
        ({"families": {"plain": {"steps": 3}}}, "families.plain.steps: kimg decides the steps; remove it"),
        ({"defaults": {"family": "a"}}, "defaults.family: a family is named by its key; remove it"),
        ({"defaults": {"loss": "a"}}, "defaults.loss: every family has its own, or those of losses; remove it"),
        (
            {"losses": ["minimax", "minimax"]},
            "losses: two models are called plain-minimax; name each loss once, or drop",
        ),
        ({"columns": 0}, "columns: found 0; input should be greater than or equal to 1"),
    ],
)
def test_a_wrong_plan_is_refused_before_anything_is_written(project: Path, change, said, capsys) -> None:
    (project / "compare.yaml").write_text(yaml.safe_dump(PLAN | change, sort_keys=False))
    assert refusal(project, capsys=capsys).startswith(f"{project / 'compare.yaml'}: {said}")


def test_a_wrong_request_is_refused_in_one_line(project: Path, capsys) -> None:
    assert "found 'sngan'; expected one of" in refusal(project, "--families", "plain,sngan", capsys=capsys)
    assert "losses: found []" in refusal(project, "--losses", ",", capsys=capsys)
    assert "nix.yaml: no such file; write a plan" in refusal(
        project, "--plan", str(project / "nix.yaml"), capsys=capsys
    )
    (project / "compare.yaml").write_text("kimg: [")
    assert "compare.yaml: not YAML: " in refusal(project, capsys=capsys)
    (project / "compare.yaml").write_text("- plain")
    assert "compare.yaml: found list; expected kimg" in refusal(project, capsys=capsys)
    (project / "compare.yaml").unlink()
    (project / "params.yaml").unlink()
    arguments = ["--kimg", "1", "--families", "plain"]
    assert "params.yaml: found no settings of a project" in refusal(project, *arguments, capsys=capsys)
    with pytest.raises(SystemExit, match="2"):
        compare.main([str(project), "--jobs", "0"])


def test_what_ganlib_refuses_is_refused_with_its_words() -> None:
    train = {"a": {"family": "dcgan", "steps": 1}, "b": {"family": "dcgan", "loss": "hing"}}
    with pytest.raises(Refused, match=r"^train\.b\.loss: found 'hing'; expected one of minimax, "):
        compare.check(PARAMETERS | {"train": train, "models": ["a", "b"]}, "a")
    listed = json.loads(compare._ganlib("list", "families", "--json"))
    assert Train.model_validate({"family": "dcgan", **listed["dcgan"]["preset"]}).batch == 128
    assert listed["dcgan"]["description"].startswith("DCGAN")


def test_options_stand_above_the_plan(project: Path) -> None:
    given = {"families": ["third", "critic"], "losses": ["hinge"], "kimg": 4.0}
    plan = compare.open_plan(project / "compare.yaml", given)
    assert plan.families == {"third": None, "critic": {"seed": 13}}
    assert (plan.losses, plan.kimg) == (["hinge"], 4)
    assert compare.open_plan(project / "nix.yaml", given).families == {"third": None, "critic": None}


def test_a_dry_run_shows_the_models_and_writes_nothing(project: Path, capsys) -> None:
    assert compare.main([str(project), "--losses", "own,hinge", "--dry-run"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()[:5]] == [
        ["model", "loss", "batch", "discriminator_steps", "steps"],
        ["plain", "non-saturating", "100", "1", "10"],
        ["plain-hinge", "hinge", "100", "1", "10"],
        ["critic", "wasserstein", "10", "5", "20"],
        ["critic-hinge", "hinge", "10", "5", "20"],
    ]
    assert not (project / "build").exists()


def test_the_comparison_is_a_project_of_its_own(project: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (project / "params.yaml").write_text(
        yaml.safe_dump(PARAMETERS | {"ingest": {"source": "folder", "path": "../pictures"}})
    )
    plan = compare.Plan(kimg=1, families={"plain": {}, "third": {"seed": 4}}, evaluate={"samples": 7})
    out = tmp_path / "far" / "away"
    compare.make(project, out, compare.parameters(project, out, plan, compare.entries_of(plan, KNOWN)))
    content = yaml.safe_load((out / "params.yaml").read_text())
    assert content == PARAMETERS | {
        "models": ["plain", "third"],
        "train": {"plain": {"family": "plain", "steps": 10}, "third": {"family": "third", "seed": 4, "steps": 20}},
        "ingest": {"source": "folder", "path": "../../pictures"},
        "evaluate": {"samples": 7, "seed": 3},
    }
    assert (out / content["ingest"]["path"]).resolve() == tmp_path / "pictures"
    assert (out / "dvc.yaml").read_bytes() == (project / "dvc.yaml").read_bytes()
    assert (out / "data/raw/picture").read_text() == "raw"
    assert not (out / "data/raw").readlink().is_absolute()
    compare.make(project, out, content)  # again, over its own


def test_paths_below_the_raw_data_or_from_anywhere_stay(project: Path) -> None:
    plan = compare.Plan(kimg=1, families={"plain": {}})
    for path in ("data/raw", "data/raw/a.zip", "$DATA/a", "/srv/a", "~/a"):
        (project / "params.yaml").write_text(yaml.safe_dump(PARAMETERS | {"ingest": {"path": path}}))
        content = compare.parameters(project, project / "build/compare", plan, [])
        assert content["ingest"]["path"] == path


def test_what_is_no_comparison_is_not_written_over(project: Path, tmp_path: Path) -> None:
    before = (project / "params.yaml").read_text()
    with pytest.raises(Refused, match="is a project and no comparison; name another folder"):
        compare.make(project, project, PARAMETERS)
    assert (project / "params.yaml").read_text() == before
    (tmp_path / "out/data/raw").mkdir(parents=True)
    with pytest.raises(Refused, match="found other data than"):
        compare.make(project, tmp_path / "out", PARAMETERS)
    (project / "dvc.yaml").unlink()
    with pytest.raises(Refused, match=r"dvc\.yaml: missing; a project has"):
        compare.make(project, tmp_path / "other", PARAMETERS)


@pytest.fixture
def results(tmp_path: Path) -> list[Row]:
    """Two models of three, the second better, in a project without classes."""
    names = ["plain", "critic-hinge", "third"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"models": names}))
    prepared(tmp_path / "data/prepared", classes=0)
    for name, distance, batch in (("plain", 20.0, 10), ("critic-hinge", 12.3456, 20), ("third", 1.0, 10)):
        trained(tmp_path, name, name.partition("-")[0], steps=50, batch=batch)
        reported(tmp_path, name, distance, **({"label_agreement": 0.5} if name == "plain" else {}))
    losses = ["non-saturating", "hinge", "hinge"]
    asked = [(name, name.partition("-")[0], loss) for name, loss in zip(names, losses, strict=True)]
    return read_rows(asked, {"third": "the loss | is not finite"}, tmp_path)


def test_the_table_has_the_best_first_and_the_floor_above(results: list[Row], tmp_path: Path) -> None:
    metrics = ["frechet_distance", "kernel_distance", "diversity", "label_agreement"]
    assert table(results) == [
        ["model", "loss", "kimg", "steps", "minutes", *metrics, "failed"],
        ["real images", "-", "-", "-", "-", "1.5", "0", "-", "-", "-"],
        ["critic-hinge", "hinge", "1", "50", "1.5", "12.35", "0.1235", "0.9", "-", "-"],
        ["plain", "non-saturating", "0.5", "50", "1.5", "20", "0.2", "0.9", "0.5", "-"],
        ["third", "hinge", "-", "-", "-", "-", "-", "-", "-", "the loss \\| is not finite"],  # its old report is void
    ]
    assert "failed" not in table(results[:2])[0]
    assert [row[0] for row in table(results[2:])] == ["model", "real images", "third"]


def test_all_of_it_is_written(results: list[Row], tmp_path: Path) -> None:
    write(results, 1, {name: known["description"] for name, known in KNOWN.items()}, 5, tmp_path)
    text = (tmp_path / "comparison.md").read_text()
    assert "Each model was shown 1 thousand real images. Distances are those of 100 generated to 10 real test" in text
    assert "| critic-hinge | hinge | 1 | 50 | 1.5 | 12.35 | 0.1235 | 0.9 | - | - |\n| plain |" in text
    assert text.endswith(
        "(comparison.png)\n\n- plain: Plain: the one\n- critic: Critic: the other\n- third: Third: one more\n"
    )
    csv = pd.read_csv(tmp_path / "comparison.csv")
    assert list(csv["model"]) == ["critic-hinge", "plain", "third"]
    assert csv["frechet_distance"].tolist()[:2] == [12.3456, 20.0]
    assert csv["kernel_distance_std"].tolist()[:2] == [0.1, 0.1]
    assert csv["failed"].tolist()[2] == "the loss | is not finite"
    with Image.open(tmp_path / "comparison.png") as picture:
        sheet = np.asarray(picture)
    images = np.random.default_rng(0).integers(0, 256, (3, 4, SIZE, SIZE, 3), dtype=np.uint8)  # as in `reported`
    tile = 80  # ten times 8 pixels
    side = tile + comparison_picture.ROW_GAP
    left = sheet.shape[1] - comparison_picture.MARGIN - 5 * (tile + comparison_picture.GAP) + comparison_picture.GAP
    assert sheet.shape[0] == 4 * side + 2 * comparison_picture.MARGIN
    for row in (1, 2):  # the plan's order; rows of the grid take turns
        top = comparison_picture.MARGIN + row * side + comparison_picture.ROW_GAP // 2
        for column, (i, j) in enumerate([(0, 0), (1, 0), (2, 0), (0, 1), (1, 1)]):
            x = left + column * (tile + comparison_picture.GAP)
            expected = images[i, j].repeat(10, axis=0).repeat(10, axis=1)
            assert (sheet[top : top + tile, x : x + tile] == expected).all()
        assert (sheet[top : top + tile, left + tile : left + tile + comparison_picture.GAP] == 255).all()
    failed = sheet[comparison_picture.MARGIN + 3 * side :, left:]
    red = (failed[..., 0].astype(int) - failed[..., 1] > 80).sum()
    assert 50 < red < 0.05 * failed[..., 0].size  # a line of text and no image


def test_a_run_without_any_result_says_so(tmp_path: Path) -> None:
    prepared(tmp_path / "data/prepared", classes=0)
    rows = [Row("third", "third", "hinge", None, failed="it burst")]
    write(rows, 2, {"third": "Third"}, 3, tmp_path)
    assert "| third | hinge | - | - | - | it burst |" in (tmp_path / "comparison.md").read_text()
    with Image.open(tmp_path / "comparison.png") as picture:
        assert picture.height == 2 * (80 + comparison_picture.ROW_GAP) + 2 * comparison_picture.MARGIN


def test_a_grid_is_cut_into_its_images(tmp_path: Path) -> None:
    from ganlib.evaluation.pictures import grid

    random = np.random.default_rng(1)
    for size, rows, columns, channels in ((28, 10, 8, 1), (32, 10, 8, 3), (64, 4, 8, 3), (130, 1, 2, 3), (8, 2, 3, 1)):
        images = random.integers(0, 256, (rows, columns, size, size, channels), dtype=np.uint8)
        grid(list(images)).save(tmp_path / "grid.png")
        found = cut(tmp_path / "grid.png", rows, size)
        assert (found == images).all() and found.shape == (rows, columns, size, size, 3)
    with pytest.raises(Failed, match="expected 2 rows of images of 9 pixels"):
        cut(tmp_path / "grid.png", 2, 9)


def test_samples_are_taken_from_each_row_in_turn() -> None:
    images = np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1, 1)
    assert [int(image.item()) for image in pick(images, 8)] == [0, 3, 1, 4, 2, 5, 0, 3]


def test_real_images_are_those_of_the_test_split(tmp_path: Path) -> None:
    prepared(tmp_path / "two", classes=2)
    strip = real_strip(tmp_path / "two", 4)  # classes in turn: items 2, 3, 4 and 5
    assert [int(image[0, 0, 0]) for image in strip.images] == [40, 60, 80, 100]
    assert all(image.shape == (SIZE, SIZE, 3) for image in strip.images)
    assert (strip.title, strip.below) == ("real images", ["toy, test split"])
    prepared(tmp_path / "none", classes=0)
    values = [int(image[0, 0, 0]) for image in real_strip(tmp_path / "none", 10).images]
    assert sorted(values) == [20 * i for i in range(2, 12)] != values


def test_a_long_reason_stays_in_its_row() -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    strips = [Strip("real images", [], [black] * 4), Strip("name", ["a", "b"], failed="word " * 200)]
    picture = draw(strips)
    assert picture.height == 2 * (64 + comparison_picture.ROW_GAP) + 2 * comparison_picture.MARGIN
    sheet = np.asarray(picture)
    edge = comparison_picture.MARGIN
    assert (sheet[-edge:] == 255).all() and (sheet[:, -edge:] == 255).all()


def test_the_reason_of_a_failure_is_what_ganlib_said() -> None:
    dvc = "ERROR: failed to reproduce 'train@a': failed to run: python -m ganlib train a, exited with 1"
    line = "ganlib: a: the loss is not finite by step 25; the last sound checkpoint is /b/c; lower the learning rate"
    assert compare.reasons([StageFailed("train@a", ["a: step 1", line, dvc])]) == {
        "a": "the loss is not finite by step 25"
    }
    assert compare.reasons([StageFailed("evaluate@b", ["Traceback", "KeyError: 3", dvc])]) == {"b": "KeyError: 3"}
    assert compare.reasons([StageFailed("train@c", [])]) == {"c": "stage train@c failed: it was killed"}
    refused = StageFailed("ingest", ["ganlib: ingest.path: no such file", "ERROR: failed to x, exited with 2"])
    with pytest.raises(Refused, match=r"stage ingest failed: ingest\.path: no such file"):
        compare.reasons([refused])
    with pytest.raises(Failed, match="stage embed failed: it burst"):
        compare.reasons([StageFailed("embed", ["it burst", "ERROR: failed to x, exited with 1"])])


def test_a_failed_model_has_a_row_and_a_second_run_trains_what_is_new(
    project: Path, server: str, tmp_path: Path, capsys
) -> None:
    def ran() -> list[str]:
        lines = (tmp_path / "log").read_text().splitlines()
        (tmp_path / "log").write_text("")
        return lines

    out = project / "build/compare"
    assert compare.main([str(project)]) == 0
    assert sorted(ran()) == ["evaluate plain", "ingest", "train critic", "train plain"]
    said = capsys.readouterr()
    assert "flows.compare: critic failed: the loss is not finite by step 25\n" in said.err
    assert "comparison.png" in said.out
    text = (out / "comparison.md").read_text()
    assert "| critic | wasserstein | - | - | - | - | - | - | the loss is not finite by step 25 |" in text

    (project / "compare.yaml").write_text(yaml.safe_dump(PLAN | {"families": {"plain": {}, "third": {}}}))
    assert compare.main([str(project)]) == 0
    assert ran() == ["train third", "evaluate third"]
    assert "critic" not in (out / "comparison.md").read_text()
    assert list(pd.read_csv(out / "comparison.csv")["model"]) == ["plain", "third"]
    capsys.readouterr()

    (out / "comparison.png").unlink()
    assert compare.main([str(project)]) == 0
    assert ran() == []
    assert capsys.readouterr().out.startswith("Every model is up to date: nothing to run.\n")
    assert (out / "comparison.png").is_file()


if __name__ == "__main__":
    toy(Path(), *sys.argv[1:])
