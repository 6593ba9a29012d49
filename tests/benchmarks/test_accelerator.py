"""The benchmark of families on a device: what it measures, its files, its time limit, and models that fail."""

from __future__ import annotations

import json
import os
import statistics
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from benchmarks import accelerator
from benchmarks.accelerator import (
    ENDLESS,
    LIMITED,
    Row,
    chosen_reals,
    forget_peak,
    images_per_second,
    main,
    open_project,
    peak_memory,
    sections,
    table,
    train_for,
)
from ganlib.evaluation.sliced_wasserstein import sliced_wasserstein_distance
from ganlib.families.registry import family
from ganlib.problems import Refused
from ganlib.project import Project
from tests.conftest import make_split, write_prepared

REAL = Path(os.environ.get("GANLIB_REAL_DATA", ""))
CPU = torch.device("cpu")
with_real_data = pytest.mark.skipif("GANLIB_REAL_DATA" not in os.environ, reason="GANLIB_REAL_DATA names no folder")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of 20 pictures in each of three classes."""
    random, folder = np.random.default_rng(0), tmp_path / "pictures"
    for name in ("cat", "dog", "fox"):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def tiny(*names: str, **given: Any) -> str:
    """The option --train for the smallest networks of some families."""
    return yaml.safe_dump({name: {**family(name).tiny, "log_every": 1, **given} for name in names})


def cells(text: str) -> list[list[str]]:
    """The table's lines in what `main` has printed."""
    return [line.split() for line in text.split("\n\n")[1].splitlines()]


def rates(file: Path) -> list[float]:
    return [json.loads(line)["images_per_second"] for line in file.read_text().splitlines()]


def project(folder: Path, name: str, **given: Any) -> Project:
    """A project of made-up images, with the smallest networks of a family."""
    write_prepared(make_split(size=32), folder)
    section = {**LIMITED, **family(name).tiny, "family": name, "device": "cpu", **given}
    return open_project(folder, {"models": [name], "embed": {"encoder": "none"}, "train": {name: section}})


def test_every_family_gets_a_row_a_grid_and_a_log(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, names = tmp_path / "out", ("r3gan", "biggan", "dcgan")
    given = ["--samples", "10", "--device", "cpu", "--precision", "float32", "--train", tiny(*names, steps=6)]

    code = main([str(pictures), "--out", str(out), *given])

    printed = capsys.readouterr().out
    head, *rows = cells(printed)
    assert code == 0
    assert (out / "table.txt").read_text() == printed
    columns = "model family device precision compiled batch images/s ratio peak GiB steps kimg SWD"
    assert head == columns.split()
    assert [row[:6] for row in rows] == [[name, name, "cpu", "float32", "no", "8"] for name in names]
    assert [row[9:11] for row in rows] == [["6", "0.0"]] * 3
    medians = [statistics.median(rates(out / f"{name}.jsonl")[1:]) for name in names]
    assert [row[6] for row in rows] == [f"{median:,.1f}" for median in medians]
    assert [row[7] for row in rows] == [f"{median / medians[0]:,.2f}" for median in medians]
    assert all(float(row[8]) > 0 and float(row[11]) > 0 for row in rows)
    files = {f"{name}.{end}" for name in names for end in ("png", "jsonl")}
    assert {path.name for path in out.iterdir()} == {"project", "table.txt", *files}  # no checkpoints
    for name, in_rows in (("r3gan", 10), ("biggan", 3), ("dcgan", 10)):  # biggan has a row for each class
        with Image.open(out / f"{name}.png") as picture:
            assert picture.size == (8 * 100, in_rows * 100)
    assert Project.open(out / "project" / "params.yaml").training("biggan").discriminator_steps == 4  # its preset


def test_precisions_are_compared_with_the_first(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--families", "dcgan", "--precision", "float32,bfloat16", "--batch", "4", "--device", "cpu"]

    code = main([str(pictures), "--out", str(tmp_path / "out"), *given, "--train", tiny("dcgan", steps=4)])

    rows = cells(capsys.readouterr().out)[1:]
    assert code == 0
    assert [row[0] for row in rows] == ["dcgan-float32", "dcgan-bfloat16"]
    assert [row[3:6] for row in rows] == [["float32", "no", "4"], ["bfloat16", "no", "4"]]
    assert rows[0][7] == "1.00"


def test_time_ends_a_training_after_its_first_step(tmp_path: Path) -> None:
    said: list[str] = []

    engine = train_for(project(tmp_path, "dcgan"), "dcgan", 1e-9, tmp_path / "run", said.append)

    assert engine.step == 2  # the first, from whose end on time counts, and one more
    assert engine.config.steps == ENDLESS
    assert said[0].startswith("dcgan: dcgan on cpu in ")
    assert said[0].endswith(" in batches of 8, for 1e-09 min")


def test_steps_end_a_training_before_its_time(tmp_path: Path) -> None:
    assert train_for(project(tmp_path, "dcgan", steps=3), "dcgan", 60.0, tmp_path / "run", print).step == 3


def test_a_model_that_fails_leaves_the_others_their_rows(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("dcgan", "lapgan", "gan")
    sections = yaml.safe_load(tiny(*names, steps=4)) | {
        "dcgan": {**family("dcgan").tiny, "generator": {"lr": 1e30}, "steps": 50, "log_every": 1}
    }
    given = ["--families", ",".join(names), "--samples", "10", "--device", "cpu", "--train", yaml.safe_dump(sections)]

    code = main([str(pictures), "--out", str(tmp_path / "out"), *given])

    head, *lines = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert code == 1
    assert "images/s" in head
    assert [line.split()[6:] for line in lines[:2]] == [["-"] * 6] * 2
    assert lines[2].split()[7] == "-"  # nothing to be compared with
    assert float(lines[2].split()[6].replace(",", "")) > 0
    assert lines[3].startswith("dcgan: dcgan: the loss or gradient of ")
    assert lines[4].startswith("lapgan: family: found lapgan; it trains in chapters")
    assert len(lines) == 5


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--families", "dcgan,nothing"], "train.nothing.family: found 'nothing'; expected one of"),
        (["--families", "dcgan,dcgan"], "--families: found dcgan,dcgan; each once"),
        (["--families", "dcgan", "--precision", "float16"], "train.dcgan.precision: found 'float16'"),
        (["--families", "gan-cls"], "gan-cls reads captions, and embed.encoder is none"),
        (["--families", "dcgan", "--train", "{dcgan: {stpes: 3}}"], "train.dcgan.stpes: unknown key; did you mean"),
        (["--families", "dcgan", "--train", "{r3gan: {steps: 3}}"], "--train: found r3gan: {'steps': 3}; give"),
        (["--families", "dcgan", "--source", "mnist"], "the mnist reader takes the folder"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_one_line(
    given: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()

    code = main([str(tmp_path / "file"), "--out", str(tmp_path / "out"), *given])

    said = capsys.readouterr().err.splitlines()
    assert code == 2
    assert len(said) == 1
    assert words in said[0]


@pytest.mark.parametrize("given", [["--minutes", "0"], ["--batch", "0"], ["--train", "[]"], ["--train", "{"]])
def test_a_wrong_option_is_said_by_the_parser(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["data", *given])
    assert f"argument {given[0]}: " in capsys.readouterr().err


def test_every_family_has_a_section_for_each_precision_and_compiled() -> None:
    parsed = {"families": "dcgan,gan", "precision": "float32,bfloat16", "compile": True, "batch": None}
    given = Namespace(**parsed, train={"gan": {"batch": 5, "steps": 7}}, device="cpu")

    made = sections(given)

    assert list(made) == [
        f"{name}-{precision}{end}"
        for name in ("dcgan", "gan")
        for precision in ("float32", "bfloat16")
        for end in ("", "-compiled")
    ]
    assert made["dcgan-bfloat16-compiled"] == {
        **LIMITED,
        "family": "dcgan",
        "precision": "bfloat16",
        "compile": True,
        "device": "cpu",
    }
    assert (made["gan-float32"]["batch"], made["gan-float32"]["steps"], made["gan-float32"]["compile"]) == (5, 7, False)


def test_the_rate_is_the_median_after_the_first_quarter(tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"

    def of(*values: float) -> float | None:
        lines = [{"step": step, "images_per_second": value} for step, value in enumerate(values)]
        history.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"step": 99, "sample_spread": 1.0}]))
        return images_per_second(history)

    assert of(1.0, 2.0, 10.0, 20.0, 40.0, 30.0, 50.0, 60.0) == 35.0  # the last six
    assert of(1.0, 10.0, 30.0) == 20.0
    assert of(1.0) is None
    assert of() is None


def test_the_table_counts_ratios_from_its_first_row() -> None:
    rows = [
        Row("a", "dcgan", "NVIDIA X", "float32", False, 64, 2000.0, 1.25, 1500, 40.04),
        Row("b", "dcgan", "NVIDIA X", "bfloat16", True, 64, 3000.0, 0.75, 3000, 30.0),
        Row("c", "gan", "NVIDIA X", "auto", False, 64, problem="too little of it"),
    ]

    lines = table(rows).splitlines()

    assert [line.split()[6:] for line in lines[1:4]] == [
        ["64", "2,000.0", "1.00", "1.25", "1,500", "96.0", "40.0"],
        ["64", "3,000.0", "1.50", "0.75", "3,000", "192.0", "30.0"],
        ["64", "-", "-", "-", "-", "-", "-"],
    ]
    assert lines[4:] == ["c: too little of it"]


def test_progress_is_said_without_an_end_that_nobody_waits_for() -> None:
    said: list[str] = []

    accelerator._without_the_end(said.append, f"gan: step 20/{ENDLESS}, 2.5 steps/s, 399999992 s left; loss_d 0.7")
    accelerator._without_the_end(said.append, "gan: resumes after step 5 of 10")

    assert said == ["gan: step 20, 2.5 steps/s; loss_d 0.7", "gan: resumes after step 5 of 10"]


def test_real_images_come_with_their_labels_and_the_distance_of_others() -> None:
    split = make_split(count=30, size=8, channels=1)
    split.images[:] = (8 * np.arange(30))[:, None, None, None] + np.arange(8)[:, None]  # as many greys as images

    few, all_halved = chosen_reals(split, 6), chosen_reals(split, 1000)

    assert (len(few.images), len(all_halved.images)) == (6, 15)
    assert few.labels.tolist() == [split.labels[image.min() // 8] for image in few.images]
    others = np.delete(split.images, all_halved.images[:, 0, 0, 0] // 8, axis=0)
    assert all_halved.floor == sliced_wasserstein_distance(all_halved.images, others, seed=0)


@pytest.mark.skipif(not os.access(accelerator._FORGET, os.W_OK), reason="the peak of a process cannot be reset here")
def test_the_peak_of_a_process_is_that_since_it_was_forgotten() -> None:
    forget_peak(CPU)
    before = peak_memory(CPU)
    held = np.ones(64 << 20, dtype=np.uint8)
    with_it = peak_memory(CPU)
    del held
    still = peak_memory(CPU)
    forget_peak(CPU)
    after = peak_memory(CPU)

    assert before is not None and with_it is not None and after is not None
    assert with_it - before == pytest.approx(1 / 16, abs=0.02)
    assert still == pytest.approx(with_it, abs=0.002)
    assert with_it - after == pytest.approx(1 / 16, abs=0.02)


def test_a_batch_larger_than_the_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="found 64; the train split has 32 images"):
        train_for(project(tmp_path, "dcgan", batch=64), "dcgan", 1.0, tmp_path / "run", print)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_cuda_is_taken_and_its_memory_measured(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--families", "r3gan,biggan,dcgan", "--samples", "10", "--compile", "--precision", "float32,bfloat16"]

    code = main([str(pictures), *given, "--out", str(tmp_path), "--train", tiny("r3gan", "biggan", "dcgan", steps=6)])

    lines = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert code == 0
    assert len(lines) == 13
    assert all(torch.cuda.get_device_name() in line for line in lines[1:])


@with_real_data
def test_cifar10_from_its_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--families", "biggan", "--limit", "200", "--samples", "20", "--device", "cpu"]
    archive = REAL / "cifar10-jpeg" / "cifar10-jpeg.tar.xz"

    code = main([str(archive), *given, "--out", str(tmp_path), "--train", tiny("biggan", steps=2)])

    head, rows = capsys.readouterr().out.split("\n\n")
    assert code == 0
    assert "images of 32 x 32 x 3" in head
    assert len(rows.splitlines()) == 2
    with Image.open(tmp_path / "biggan.png") as picture:
        assert picture.size == (800, 1000)  # ten classes


@with_real_data
def test_mnist_by_its_reader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--source", "mnist", "--size", "28", "--channels", "1", "--limit", "300", "--samples", "50"]

    code = main(
        [
            str(REAL / "mnist"),
            *given,
            *["--families", "dcgan", "--device", "cpu", "--out", str(tmp_path), "--train", tiny("dcgan", steps=4)],
        ]
    )

    assert code == 0
    assert "images of 28 x 28 x 1" in capsys.readouterr().out
