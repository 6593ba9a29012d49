"""The few numbers that two graphs are compared by: those of the report, to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ganlib import config
from ganlib.evaluation.protocol import ConditionKind, measuring
from ganlib.evaluation.suite import evaluate
from ganlib.problems import Refused

SETTINGS = config.Evaluate(samples=120, prompts=90, subsets=2, subset_size=20, batch=50, seed=3)


def silent(line: str) -> None:
    pass


def noise(condition: np.ndarray | None, count: int, seed: int) -> np.ndarray:
    """Images that follow their seed, and a little what is asked for."""
    images = np.random.default_rng(seed).integers(0, 200, (count, 12, 12, 3), dtype=np.uint8)
    if condition is not None:
        asked = condition if condition.ndim == 1 else condition[:, 0]
        images[:, :, :, 0] += (20 * asked.astype(np.uint8))[:, None, None]
    return images


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedded")
    np.save(folder / "embeddings.npy", np.random.default_rng(0).integers(0, 3, (840, 4)).astype(np.float32))
    return folder


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("none", {"frechet_distance"}),
        ("class", {"frechet_distance", "label_agreement"}),
        ("text", {"frechet_distance", "attribute_accuracy/all"}),
    ],
)
def test_they_are_the_report_s(
    kind: ConditionKind, expected: set[str], prepared: Path, embedded: Path, extractor_folder: Path, tmp_path: Path
) -> None:
    measure = measuring(kind, prepared, embedded, extractor_folder, SETTINGS, silent)
    found = measure(noise)
    assert set(found) == expected
    report = evaluate(noise, kind, prepared, embedded, extractor_folder, SETTINGS, None, tmp_path / "report", silent)
    assert found == {name: report[name] for name in expected}
    assert measure(noise) == found
    assert measure(lambda condition, count, seed: noise(condition, count, seed + 1)) != found


def test_what_does_not_fit_is_refused_before_anything_is_measured(
    prepared: Path, extractor_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match=r"extractor\.json: no such file; train the extractor first"):
        measuring("class", prepared, None, tmp_path, SETTINGS, silent)
    with pytest.raises(Refused, match=r"embeddings\.npy"):
        measuring("text", prepared, tmp_path, extractor_folder, SETTINGS, silent)
