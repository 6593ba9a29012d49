from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganlib import config
from ganlib.data.store import load_split
from ganlib.evaluation.diversity import diversity, diversity_within_class
from ganlib.evaluation.frechet import frechet_distance
from ganlib.evaluation.frozen import Frozen, freeze, open_frozen
from ganlib.evaluation.generated import Sample
from ganlib.evaluation.prompts import every_caption
from ganlib.evaluation.registry import is_registered
from ganlib.evaluation.score import measure, measure_over_seeds
from ganlib.evaluation.suite import evaluate
from ganlib.problems import Failed, Refused

SETTINGS = config.Evaluate(samples=200, prompts=120, subsets=5, subset_size=50, batch=64)
COLOURS, SIDES = ("red", "green", "blue"), ("left", "right")
Draw = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def frozen(prepared: Path, extractor_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Frozen:
    out = tmp_path_factory.mktemp("frozen") / "set"
    freeze(prepared, extractor_folder, SETTINGS, out, silent)
    return open_frozen(out)


@pytest.fixture(scope="module")
def embeddings(frozen: Frozen) -> np.ndarray:
    """Embeddings `(captions, 3)` that hold what a caption states: its colour, and its side or -1."""
    return embedded(every_caption(frozen.test).texts)


def embedded(texts: tuple[str, ...]) -> np.ndarray:
    colours = [next(i for i, name in enumerate(COLOURS) if name in text) for text in texts]
    sides = [next((i for i, name in enumerate(SIDES) if name in text), -1) for text in texts]
    return np.stack([colours, sides, np.ones(len(texts))], axis=1).astype(np.float32)


@pytest.fixture
def by_label(draw_squares: Draw) -> Sample:
    """The perfect generator of a label: the process that made the real images."""

    def sample(condition: np.ndarray | None, count: int, seed: int) -> np.ndarray:
        assert condition is not None
        return draw_squares(condition, np.random.default_rng(seed).integers(0, 2, count), seed)

    return sample


@pytest.fixture
def by_caption(draw_squares: Draw) -> Sample:
    """The perfect generator of an embedded caption; a side that is not stated is drawn."""

    def sample(condition: np.ndarray | None, count: int, seed: int) -> np.ndarray:
        assert condition is not None
        drawn = np.random.default_rng(seed).integers(0, 2, count)
        side = np.where(condition[:, 1] < 0, drawn, condition[:, 1])
        return draw_squares(condition[:, 0].astype(int), side.astype(int), seed)

    return sample


def test_a_text_model_scores_what_its_report_says_with_that_seed(
    frozen: Frozen, embeddings: np.ndarray, by_caption: Sample, prepared: Path, extractor_folder: Path, tmp_path: Path
) -> None:
    splits = [load_split(prepared, None, split) for split in ("train", "test")]
    texts = tuple(text for split in splits for own in split.items["captions"] for text in own)
    np.save(tmp_path / "embeddings.npy", embedded(texts))
    settings = SETTINGS.model_copy(update={"seed": 3})
    report = evaluate(
        by_caption, "text", prepared, tmp_path, extractor_folder, settings, None, tmp_path / "report", silent
    )

    found = measure(frozen, by_caption, "text", embeddings, 3, silent)

    same = {"frechet_distance", "kernel_distance", "diversity", "r_precision"}
    same |= {f"attribute_accuracy/{name}" for name in ("colour", "side", "all")}
    assert {name: found[name] for name in same} == {name: report[name] for name in same}


def test_a_class_model_agrees_as_its_report_says_with_that_seed(
    frozen: Frozen, by_label: Sample, prepared: Path, extractor_folder: Path, tmp_path: Path
) -> None:
    report = evaluate(by_label, "class", prepared, None, extractor_folder, SETTINGS, None, tmp_path / "report", silent)
    found = measure(frozen, by_label, "class", None, 0, silent)

    for name in ("label_agreement", "diversity_within_class"):
        assert found[name] == pytest.approx(report[name], rel=1e-12)


def test_distances_ask_for_the_classes_as_often_as_they_are_real(frozen: Frozen, by_label: Sample) -> None:
    asked: list[np.ndarray] = []

    def watched(condition: np.ndarray | None, count: int, seed: int) -> np.ndarray:
        assert condition is not None
        asked.append(condition)
        return by_label(condition, count, seed)

    measure(frozen, watched, "class", None, 0, silent)
    labels = np.concatenate(asked)

    real = np.bincount(frozen.test.labels, minlength=3)
    assert np.array_equal(np.bincount(labels[:120], minlength=3), real)  # 200 samples: all 120, then 80 again
    assert np.all(np.bincount(labels[120:200], minlength=3) <= real)
    assert np.array_equal(np.bincount(labels[200:], minlength=3), [40, 40, 40])


def test_agreement_of_the_whole_is_the_mean_of_the_classes(frozen: Frozen, draw_squares: Draw) -> None:
    """A generator whose greens are blue: the other classes do not hide it."""

    def sample(condition: np.ndarray | None, count: int, seed: int) -> np.ndarray:
        assert condition is not None
        return draw_squares(np.where(condition == 1, 2, condition), np.arange(count) % 2, seed)

    found = measure(frozen, sample, "class", None, 0, silent)

    assert found["label_agreement/green"] == 0.0
    assert min(found["label_agreement/red"] or 0, found["label_agreement/blue"] or 0) >= 0.95
    each = [found[f"label_agreement/{name}"] or 0 for name in COLOURS]
    assert found["label_agreement"] == pytest.approx(np.mean(each))


def test_a_class_with_one_image_alone(frozen: Frozen, by_label: Sample, draw_squares: Draw) -> None:
    one = draw_squares(np.array([2]), np.array([0]), 5)[0]

    def sample(condition: np.ndarray | None, count: int, seed: int) -> np.ndarray:
        assert condition is not None
        images = by_label(condition, count, seed)
        images[condition == 2] = one
        return images

    found = measure(frozen, sample, "class", None, 0, silent)

    assert found["diversity_within_class/blue"] == pytest.approx(0, abs=1e-6)
    assert found["diversity_within_class/red"] == pytest.approx(1, abs=0.2)
    assert found["label_agreement/blue"] == 1.0
    assert (found["diversity_within_class"] or 0) > 0.5  # which hides it


def test_distances_and_the_diversity_of_each_class_from_the_images(frozen: Frozen, by_label: Sample) -> None:
    found = measure(frozen, by_label, "class", None, 0, silent)
    made: list[np.ndarray] = []
    labels = np.arange(SETTINGS.prompts) % 3

    def watched(condition: np.ndarray | None, count: int, seed: int) -> np.ndarray:
        made.append(by_label(condition, count, seed))
        return made[-1]

    measure(frozen, watched, "class", None, 0, silent)
    features = frozen.extractor.features(np.concatenate(made))
    drawn, features = features[: SETTINGS.samples], features[SETTINGS.samples :]
    assert found["frechet_distance"] == pytest.approx(frechet_distance(drawn, frozen.real))
    assert found["diversity"] == pytest.approx(diversity(drawn, frozen.real))
    for label, name in enumerate(COLOURS):
        own, real = labels == label, frozen.test.labels == label
        expected = diversity_within_class(features[own], labels[own], frozen.real[real], frozen.test.labels[real])
        assert found[f"diversity_within_class/{name}"] == pytest.approx(expected)
    assert found["diversity_within_class"] == pytest.approx(
        np.mean([found[f"diversity_within_class/{name}"] or 0 for name in COLOURS])
    )


def test_a_value_of_an_attribute_that_a_text_model_cannot_show(
    frozen: Frozen, embeddings: np.ndarray, draw_squares: Draw
) -> None:
    """Squares on the right come out on the left, and are all the same."""
    one = draw_squares(np.array([0]), np.array([0]), 5)[0]

    def sample(condition: np.ndarray | None, count: int, seed: int) -> np.ndarray:
        assert condition is not None
        images = draw_squares(condition[:, 0].astype(int), np.maximum(condition[:, 1], 0).astype(int), seed)
        images[condition[:, 1] == 1] = one
        return images

    found = measure(frozen, sample, "text", embeddings, 0, silent)

    assert found["attribute_accuracy/side/right"] == 0.0
    assert found["attribute_accuracy/side/left"] == pytest.approx(1, abs=0.05)
    assert found["diversity_within_class/side/right"] == pytest.approx(0, abs=1e-6)
    assert found["diversity_within_class/side/left"] == pytest.approx(1, abs=0.2)


def test_without_a_condition_a_class_that_is_never_drawn(frozen: Frozen, draw_squares: Draw) -> None:
    def sample(condition: np.ndarray | None, count: int, seed: int) -> np.ndarray:
        assert condition is None
        random = np.random.default_rng(seed)
        return draw_squares(random.integers(0, 2, count), random.integers(0, 2, count), seed)

    found = measure(frozen, sample, "none", None, 0, silent)
    real = np.bincount(frozen.test.labels, minlength=3) / len(frozen.test.labels)

    assert found["presence/blue"] == pytest.approx(0, abs=0.05)
    assert found["presence/red"] == pytest.approx(0.5 / real[0], rel=0.2)
    assert not [name for name in found if "agreement" in name]


@pytest.mark.parametrize("kind", ["class", "text", "none"])
def test_every_seed_measures_the_same_names_and_again_the_same_values(
    kind: Any, frozen: Frozen, embeddings: np.ndarray, draw_squares: Draw
) -> None:
    def sample(condition: np.ndarray | None, count: int, seed: int) -> np.ndarray:
        colour = np.random.default_rng(seed).integers(0, 3, count)
        return draw_squares(colour, np.arange(count) % 2, seed)

    own = embeddings if kind == "text" else None
    metrics, left_out = measure_over_seeds(frozen, sample, kind, own, (4, 1), silent)

    assert measure_over_seeds(frozen, sample, kind, own, (4, 1), silent) == (metrics, left_out)
    assert left_out == {}
    assert all(len(values) == 2 for values in metrics.values())
    assert len(set(metrics["frechet_distance"])) == 2
    alone = measure(frozen, sample, kind, own, 1, silent)
    assert {name: values[1] for name, values in metrics.items()} == alone
    described = {name.partition("/")[0] for name in metrics} - {"presence"}
    assert all(is_registered(name) or name == "attribute_accuracy" for name in described)


def test_what_some_seed_cannot_measure_is_left_out_under_all(frozen: Frozen, by_label: Sample) -> None:
    few = replace(frozen, card=frozen.card.model_copy(update={"evaluate": SETTINGS.model_copy(update={"prompts": 2})}))
    metrics, left_out = measure_over_seeds(few, by_label, "class", None, (0, 1), silent)

    assert "label_agreement/green" in metrics
    assert "under seed 0, 1: no image of it was asked for" in left_out["label_agreement/blue"]
    assert "diversity_within_class" in left_out
    assert not metrics.keys() & left_out.keys()


def test_says_each_seed_in_a_line(frozen: Frozen, by_label: Sample) -> None:
    said: list[str] = []
    measure_over_seeds(frozen, by_label, "class", None, (0, 7), said.append)

    assert [line.partition(":")[0] for line in said] == ["seed 0 (1 of 2)", "seed 7 (2 of 2)"]
    assert all("label_agreement " in line and "/red" not in line for line in said)


def test_data_without_what_the_model_is_asked_by_is_refused(
    frozen: Frozen, embeddings: np.ndarray, by_label: Sample
) -> None:
    bare = replace(frozen, test=replace(frozen.test, spec=frozen.test.spec.model_copy(update={"classes": ()})))

    with pytest.raises(Refused, match="its data has no classes"):
        measure(bare, by_label, "class", None, 0, silent)
    for wrong in (None, embeddings[1:]):
        with pytest.raises(Refused, match=r"240 captions, \d+ embeddings"):
            measure(frozen, by_label, "text", wrong, 0, silent)


def test_images_of_another_form_fail(frozen: Frozen, by_label: Sample) -> None:
    with pytest.raises(Failed, match="generator: returned"):
        measure(frozen, lambda *arguments: by_label(*arguments)[:, 1:], "class", None, 0, silent)
