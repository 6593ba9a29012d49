from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganlib import config
from ganlib.data.store import load_split
from ganlib.evaluation.features import load_extractor
from ganlib.evaluation.generated import Sample
from ganlib.evaluation.registry import METRICS, is_registered
from ganlib.evaluation.suite import evaluate
from ganlib.evaluation.table import Table
from ganlib.problems import Failed, Refused

SETTINGS = config.Evaluate(samples=200, prompts=120, subsets=5, subset_size=50, batch=64)
Draw = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
Measure = Callable[..., dict[str, float]]


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="session")
def embedded(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embeddings `(captions, 3)` that hold what a caption states: its colour, and its side or -1."""
    folder = tmp_path_factory.mktemp("embedded")
    splits = [load_split(prepared, None, split) for split in ("train", "test")]
    texts = [text for split in splits for own in split.items["captions"] for text in own]
    colours = [next(i for i, name in enumerate(("red", "green", "blue")) if name in text) for text in texts]
    sides = [0 if "left" in text else 1 if "right" in text else -1 for text in texts]
    vectors = np.stack([colours, sides, np.ones(len(texts))], axis=1).astype(np.float32)
    np.save(folder / "embeddings.npy", vectors)
    return folder


@pytest.fixture
def measure(prepared: Path, embedded: Path, extractor_folder: Path, tmp_path: Path) -> Measure:
    """`evaluate` of a generator into `tmp_path / "report"`."""

    def run(sample: Sample, kind: str, history: Path | None = None) -> dict[str, float]:
        out = tmp_path / "report"
        return evaluate(sample, kind, prepared, embedded, extractor_folder, SETTINGS, history, out, silent)  # type: ignore[arg-type]

    return run


@pytest.fixture
def by_label(draw_squares: Draw) -> Sample:
    """The perfect generator of a label: the process that made the real images."""

    def sample(condition: np.ndarray | None, count: int, seed: int) -> np.ndarray:
        assert condition is not None
        assert condition.dtype == np.int64
        assert condition.shape == (count,)
        return draw_squares(condition, np.random.default_rng(seed).integers(0, 2, count), seed)

    return sample


@pytest.fixture
def by_caption(draw_squares: Draw) -> Sample:
    """The perfect generator of an embedded caption; a side that is not stated is drawn."""

    def sample(condition: np.ndarray | None, count: int, seed: int) -> np.ndarray:
        assert condition is not None
        assert condition.dtype == np.float32
        assert condition.shape == (count, 3)
        drawn = np.random.default_rng(seed).integers(0, 2, count)
        side = np.where(condition[:, 1] < 0, drawn, condition[:, 1])
        return draw_squares(condition[:, 0].astype(int), side.astype(int), seed)

    return sample


@pytest.fixture
def blind(draw_squares: Draw) -> Sample:
    """A generator of good images that ignores what it is asked for."""

    def sample(condition: np.ndarray | None, count: int, seed: int) -> np.ndarray:
        random = np.random.default_rng(seed)
        return draw_squares(random.integers(0, 3, count), random.integers(0, 2, count), seed)

    return sample


@pytest.fixture
def constant(draw_squares: Draw) -> Sample:
    """A collapsed generator."""

    def sample(condition: np.ndarray | None, count: int, seed: int) -> np.ndarray:
        return draw_squares(np.zeros(1, int), np.zeros(1, int), 0).repeat(count, axis=0)

    return sample


def test_a_perfect_generator_of_classes(measure: Measure, by_label: Sample) -> None:
    found = measure(by_label, "class")

    assert found["label_agreement"] >= 0.98
    assert found["frechet_distance"] < 3 * found["frechet_distance_floor"]
    assert found["diversity"] == pytest.approx(1, abs=0.1)
    assert found["diversity_within_class"] == pytest.approx(1, abs=0.15)
    assert abs(found["kernel_distance"]) < 5 * found["kernel_distance_std"]


def test_a_generator_that_ignores_the_class(measure: Measure, blind: Sample) -> None:
    found = measure(blind, "class")

    assert found["label_agreement"] == pytest.approx(1 / 3, abs=0.15)
    assert found["frechet_distance"] < 3 * found["frechet_distance_floor"]  # which is why agreement is measured


def test_a_collapsed_generator(measure: Measure, constant: Sample, by_label: Sample) -> None:
    good, collapsed = measure(by_label, "class"), measure(constant, "class")

    assert collapsed["diversity"] == pytest.approx(0, abs=1e-6)
    assert collapsed["diversity_within_class"] == pytest.approx(0, abs=1e-6)
    assert collapsed["frechet_distance"] > 10 * good["frechet_distance"]
    assert collapsed["kernel_distance"] > 10 * good["kernel_distance_std"]
    assert collapsed["label_agreement"] == pytest.approx(1 / 3)


def test_a_perfect_generator_of_captions(measure: Measure, by_caption: Sample) -> None:
    found = measure(by_caption, "text")

    assert found["attribute_accuracy/colour"] >= 0.98
    assert found["attribute_accuracy/side"] >= 0.98
    both = found["attribute_accuracy/colour"] + found["attribute_accuracy/side"]
    assert found["attribute_accuracy/all"] == pytest.approx(both / 2)
    assert found["r_precision"] >= 0.9
    assert found["frechet_distance"] < 3 * found["frechet_distance_floor"]
    assert "label_agreement" not in found


def test_a_generator_that_ignores_the_caption(measure: Measure, blind: Sample, tmp_path: Path) -> None:
    found = measure(blind, "text")
    protocol = json.loads((tmp_path / "report/protocol.json").read_text())

    assert found["attribute_accuracy/colour"] == pytest.approx(1 / 3, abs=0.15)
    assert found["attribute_accuracy/side"] == pytest.approx(1 / 2, abs=0.2)
    assert found["r_precision"] < protocol["r_precision"]["on_real"] - 0.4


def test_accuracy_counts_only_prompts_that_state_the_attribute(
    measure: Measure, by_caption: Sample, prepared: Path, tmp_path: Path
) -> None:
    measure(by_caption, "text")
    protocol = json.loads((tmp_path / "report/protocol.json").read_text())

    assert protocol["attribute_accuracy/colour"]["count"] == 120  # every caption states the colour
    assert 0 < protocol["attribute_accuracy/side"]["count"] < 120


def test_without_a_condition(measure: Measure, blind: Sample) -> None:
    def sample(condition: np.ndarray | None, count: int, seed: int) -> np.ndarray:
        assert condition is None
        return blind(None, count, seed)

    found = measure(sample, "none")

    assert found["frechet_distance"] < 3 * found["frechet_distance_floor"]
    assert not {"label_agreement", "r_precision"} & set(found)


@pytest.mark.parametrize("kind", ["class", "text", "none"])
def test_the_files_of_a_report(
    kind: str, measure: Measure, blind: Sample, extractor_folder: Path, tmp_path: Path
) -> None:
    history = tmp_path / "history.jsonl"
    history.write_text('{"step": 25, "loss_generator": 1.5, "p_real": 0.7, "lr": 0.1}\n{"step": 50, "p_fake": 0.2}\n')

    found = measure(blind, kind, history)
    report = tmp_path / "report"
    metrics = json.loads((report / "metrics.json").read_text())
    protocol = json.loads((report / "protocol.json").read_text())

    assert metrics == found
    assert all(is_registered(name) and type(value) is float and np.isfinite(value) for name, value in metrics.items())
    assert set(metrics) <= set(protocol)
    for name, how in protocol.items():
        assert how["extractor_sha256"] == load_extractor(extractor_folder).hash, name
        assert (how["split"], how["resize"], how["seed"]) == ("test", "none", 0)
    assert protocol["frechet_distance"]["floor"] == metrics["frechet_distance_floor"]
    assert protocol["frechet_distance"] | {"generated": 200, "real": 120} == protocol["frechet_distance"]
    expected = {"metrics.json", "protocol.json", "rows.txt", "pictures", "plots"}
    assert {file.name for file in report.iterdir()} == expected
    tables = {"class": {"label.csv"}, "text": {"colour.csv", "side.csv"}, "none": set()}
    assert {file.name for file in (report / "plots" / "agreement").iterdir()} == tables[kind]
    for name in ("real_and_generated.png", "samples.png"):
        with Image.open(report / "pictures" / name) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 50
    curves = {file.name: file.read_text().split() for file in (report / "plots" / "curves").iterdir()}
    assert curves == {
        "loss_generator.csv": ["step,loss_generator", "25,1.5"],
        "p_real.csv": ["step,p_real", "25,0.7"],
        "p_fake.csv": ["step,p_fake", "50,0.2"],
    }


def test_the_confusion_table_is_the_label_agreement(measure: Measure, blind: Sample, tmp_path: Path) -> None:
    found = measure(blind, "class")
    with (tmp_path / "report/plots/agreement/label.csv").open() as file:
        rows = list(csv.DictReader(file))

    assert len(rows) == 120
    assert [sum(row["asked"] == name for row in rows) for name in ("red", "green", "blue")] == [40, 40, 40]
    assert np.mean([row["asked"] == row["judged"] for row in rows]) == pytest.approx(found["label_agreement"])


def test_pictures_show_real_above_generated_of_the_same_class(
    measure: Measure, by_label: Sample, tmp_path: Path
) -> None:
    measure(by_label, "class")
    with Image.open(tmp_path / "report/pictures/real_and_generated.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    strong = [np.flatnonzero((pixels[:, :, c] - pixels.min(2) > 120).any(0)) for c in range(3)]

    assert strong[0].max() < strong[1].min() < strong[1].max() < strong[2].min()  # a column of each colour


def test_is_the_same_again_and_seeds_differ_between_batches(measure: Measure, by_caption: Sample) -> None:
    seeds: list[int] = []

    def watched(condition: np.ndarray | None, count: int, seed: int) -> np.ndarray:
        seeds.append(seed)
        return by_caption(condition, count, seed)

    first = measure(watched, "text")

    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert measure(by_caption, "text") == first


def test_what_comes_back_must_be_images_of_the_right_form(measure: Measure, by_label: Sample, tmp_path: Path) -> None:
    def float_images(condition: np.ndarray | None, count: int, seed: int) -> np.ndarray:
        return by_label(condition, count, seed).astype(np.float32)

    def one_short(condition: np.ndarray | None, count: int, seed: int) -> np.ndarray:
        return by_label(condition, count, seed)[1:]

    for sample in (float_images, one_short):
        with pytest.raises(Failed, match="generator: returned"):
            measure(sample, "class")
    assert not (tmp_path / "report").exists()


def test_a_value_that_is_not_finite_is_never_entered() -> None:
    table = Table(common={})

    for value in (float("nan"), float("inf")):
        with pytest.raises(Failed, match="frechet_distance: the value is"):
            table.add("frechet_distance", value)
    with pytest.raises(KeyError, match="not in METRICS"):
        table.add("frechet_distanse", 1.0)
    assert table.metrics == {}


def test_data_without_what_the_model_is_asked_by_is_refused(
    make_prepared: Callable[..., Path], extractor_folder: Path, blind: Sample, tmp_path: Path
) -> None:
    bare = make_prepared(tmp_path / "prepared", classes=False)

    for kind, message in (("class", "the data has no classes"), ("text", "no embeddings.npy")):
        with pytest.raises(Refused, match=message):
            evaluate(blind, kind, bare, tmp_path, extractor_folder, SETTINGS, None, tmp_path / "report", silent)  # type: ignore[arg-type]


def test_every_metric_has_one_line() -> None:
    assert all(line and "\n" not in line and len(line) <= 120 for line in METRICS.values())
    assert is_registered("attribute_accuracy/colour")
    assert not is_registered("attribute_accuracy/")
