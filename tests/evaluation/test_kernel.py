from __future__ import annotations

import itertools

import numpy as np
import pytest

from ganlib.evaluation import kernel
from ganlib.evaluation.kernel import kernel_distance, kernel_distance_over_subsets
from ganlib.problems import Refused


def literally(x: np.ndarray, y: np.ndarray) -> float:
    """Gretton et al. 2012, equation 3, pair by pair."""

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (float(a @ b) / len(a) + 1) ** 3

    xx = np.mean([k(a, b) for a, b in itertools.permutations(x, 2)])
    yy = np.mean([k(a, b) for a, b in itertools.permutations(y, 2)])
    return float(xx + yy - 2 * np.mean([k(a, b) for a in x for b in y]))


def test_agrees_with_the_definition_pair_by_pair() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(7, 3)), random.normal(0.5, 1, size=(5, 3))

    assert kernel_distance(x, y) == pytest.approx(literally(x, y), rel=1e-12)


def test_blocks_do_not_change_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    x, y = random.normal(size=(23, 4)), random.normal(size=(11, 4))
    whole = kernel_distance(x, y)

    monkeypatch.setattr(kernel, "_BLOCK", 5)

    assert kernel_distance(x, y) == pytest.approx(whole, rel=1e-12)


def test_is_unbiased_in_one_dimension() -> None:
    # between N(0, 1) and N(1, 1): sum_j C(3, j) (m_j - m'_j)^2 = 3 x 1 + 3 x 1 + 1 x 16 = 22
    random = np.random.default_rng(2)
    values = [kernel_distance(random.normal(size=(50, 1)), random.normal(1, 1, size=(50, 1))) for _ in range(2000)]
    error = np.std(values) / np.sqrt(len(values))

    assert error < 0.6
    assert abs(np.mean(values) - 22) < 3 * error


def test_equal_distributions_give_both_signs_around_zero() -> None:
    random = np.random.default_rng(3)
    values = [kernel_distance(random.normal(size=(40, 4)), random.normal(size=(40, 4))) for _ in range(300)]

    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


def test_subsets_are_seeded_and_spread() -> None:
    random = np.random.default_rng(4)
    x, y = random.normal(size=(80, 4)), random.normal(0.5, 1, size=(60, 4))

    first = kernel_distance_over_subsets(x, y, subsets=10, size=30, seed=0)

    assert first == kernel_distance_over_subsets(x, y, subsets=10, size=30, seed=0)
    assert first != kernel_distance_over_subsets(x, y, subsets=10, size=30, seed=1)
    assert first[1] > 0
    assert abs(first[0] - kernel_distance(x, y)) < first[1]


def test_a_subset_of_everything_is_the_full_estimate() -> None:
    random = np.random.default_rng(5)
    x, y = random.normal(size=(20, 4)), random.normal(size=(20, 4))

    mean, deviation = kernel_distance_over_subsets(x, y, subsets=3, size=20, seed=0)

    assert mean == pytest.approx(kernel_distance(x, y), rel=1e-9)
    assert deviation == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("size", [1, 6])
def test_impossible_subsets_are_refused(size: int) -> None:
    with pytest.raises(Refused, match="kernel distance"):
        kernel_distance_over_subsets(np.zeros((5, 2)), np.zeros((9, 2)), subsets=2, size=size, seed=0)
