from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from ganlib.evaluation import diversity as module
from ganlib.evaluation.diversity import diversity, diversity_within_class, mean_distance
from ganlib.problems import Refused


def test_mean_distance_agrees_with_scipy_also_far_from_the_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(0).normal(1e4, 1, size=(30, 5))
    monkeypatch.setattr(module, "_BLOCK", 7)

    assert mean_distance(features) == pytest.approx(pdist(features).mean(), rel=1e-9)


def test_equal_images_have_no_diversity_and_twice_the_spread_has_two() -> None:
    real = np.random.default_rng(1).normal(size=(40, 3))

    assert diversity(np.ones((10, 3)), real) == 0
    assert diversity(2 * real + 5, real) == pytest.approx(2, rel=1e-12)


def test_within_class_sees_collapse_that_the_overall_figure_hides() -> None:
    random = np.random.default_rng(2)
    labels = np.arange(60) % 3
    real = random.normal(size=(60, 4)) + 10 * labels[:, None]
    collapsed = 10.0 * labels[:, None] * np.ones((60, 4))

    assert diversity(collapsed, real) > 0.9
    assert diversity_within_class(collapsed, labels, real, labels) == 0
    assert diversity_within_class(real, labels, real, labels) == pytest.approx(1)


def test_within_class_leaves_out_labels_without_a_pair() -> None:
    real = np.random.default_rng(3).normal(size=(5, 2))
    labels = np.array([0, 0, 0, 0, 1])

    assert diversity_within_class(real, labels, real, labels) == pytest.approx(1)
    assert diversity_within_class(real, np.arange(5), real, labels) is None


def test_a_single_image_is_refused() -> None:
    with pytest.raises(Refused, match="found 1 feature vectors"):
        mean_distance(np.zeros((1, 2)))
