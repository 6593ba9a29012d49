from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import linalg

from ganlib.evaluation.frechet import frechet_between_gaussians, frechet_distance, moments, nuclear_overlap
from ganlib.problems import Refused


def test_between_gaussians_with_covariances_that_do_not_commute() -> None:
    S1, S2, zero = np.array([[2.0, 1.0], [1.0, 2.0]]), np.diag([1.0, 3.0]), np.zeros(2)

    assert frechet_between_gaussians(zero, S1, zero, S2) == pytest.approx(8 - 2 * math.sqrt(14), abs=1e-12)


def test_between_gaussians_with_commuting_covariances() -> None:
    mean1, mean2, a, b = np.array([1.0, 2.0]), np.array([0.0, 4.0]), np.array([4.0, 9.0]), np.array([1.0, 16.0])

    found = frechet_between_gaussians(mean1, np.diag(a), mean2, np.diag(b))

    assert found == pytest.approx(5 + (2 - 1) ** 2 + (3 - 4) ** 2, abs=1e-12)


def test_shifted_identity_gives_the_number_of_dimensions() -> None:
    identity = np.eye(128)

    assert frechet_between_gaussians(np.zeros(128), identity, np.ones(128), identity) == pytest.approx(128, abs=1e-9)


def test_agrees_with_a_general_matrix_square_root() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(200, 6)) @ random.normal(size=(6, 6)), random.normal(1, 2, size=(300, 6))
    (mean1, S1), (mean2, S2) = moments(x), moments(y)
    oracle = np.sum((mean1 - mean2) ** 2) + np.trace(S1 + S2 - 2 * linalg.sqrtm(S1 @ S2).real)

    assert frechet_distance(x, y) == pytest.approx(oracle, rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(5, 7), (5, 40), (40, 5)])
def test_fewer_samples_than_dimensions_take_another_form_of_the_same_number(n: int, m: int) -> None:
    random = np.random.default_rng(1)
    x, y = random.normal(size=(n, 12)), random.normal(0.5, 2, size=(m, 12))

    assert frechet_distance(x, y) == pytest.approx(frechet_between_gaussians(*moments(x), *moments(y)), rel=1e-6)


def test_both_forms_of_the_cross_term_agree_where_both_are_full_rank() -> None:
    random = np.random.default_rng(2)
    x, y = random.normal(size=(50, 4)), random.normal(size=(60, 4)) @ random.normal(size=(4, 4))
    S1, S2 = moments(x)[1], moments(y)[1]
    by_eigenvalues = (np.trace(S1) + np.trace(S2) - frechet_between_gaussians(np.zeros(4), S1, np.zeros(4), S2)) / 2

    assert nuclear_overlap(x - x.mean(0), y - y.mean(0)) == pytest.approx(by_eigenvalues, rel=1e-10)


def test_of_a_set_with_itself_is_zero_and_symmetric() -> None:
    random = np.random.default_rng(3)
    x, y = random.normal(size=(30, 5)), random.normal(1, 1, size=(40, 5))

    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-10)


def test_one_sample_is_refused() -> None:
    with pytest.raises(Refused, match="found 1 feature vectors"):
        frechet_distance(np.zeros((1, 3)), np.zeros((5, 3)))
