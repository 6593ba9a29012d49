from __future__ import annotations

from math import log

import numpy as np
import pytest
from scipy.stats import entropy

from ganlib.evaluation.modes import find_modes, reverse_kl
from ganlib.problems import Refused

SQUARE = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 4.0]])


def test_the_divergence_is_none_for_uniform_and_log_k_for_one_mode() -> None:
    assert reverse_kl(np.full(25, 100)) == pytest.approx(0, abs=1e-12)
    assert reverse_kl(np.array([0, 0, 7, 0, 0, 0, 0, 0])) == pytest.approx(log(8), rel=1e-12)


def test_the_divergence_by_hand_and_by_scipy() -> None:
    # p = (1/2, 1/4, 1/4, 0) against 1/4 each: 1/2 log 2 + 0 + 0
    assert reverse_kl(np.array([20, 10, 10, 0])) == pytest.approx(log(2) / 2, rel=1e-12)

    counts = np.random.default_rng(0).integers(0, 9, size=30)

    assert reverse_kl(counts) == pytest.approx(entropy(counts, np.ones(30)), rel=1e-12)


def test_real_samples_have_the_divergence_of_their_number() -> None:
    random = np.random.default_rng(1)
    values = [reverse_kl(random.multinomial(2500, np.full(8, 1 / 8))) for _ in range(400)]
    error = np.std(values) / np.sqrt(len(values))

    assert np.mean(values) == pytest.approx(7 / 5000, abs=3 * error)
    assert error < 1e-4


def test_samples_count_for_the_nearest_centre_within_three_deviations() -> None:
    points = np.array(
        [
            [0.0, 0.29],  # of the first mode
            [0.2, -0.2],  # as well: 0.283 away
            [0.25, 0.25],  # 0.354 away, though each axis is within
            [4.0, 3.7],  # of the last, at the border
            [2.0, 2.0],  # between all
        ]
    )

    modes = find_modes(points, SQUARE, deviation=0.1 + 1e-9)

    assert modes.counts.tolist() == [2, 0, 0, 1]
    assert modes.found == 2
    assert modes.high_quality == pytest.approx(3 / 5, rel=1e-12)
    # p = (2/3, 1/3): 2/3 log 8/3 + 1/3 log 4/3
    assert modes.reverse_kl == pytest.approx(2 / 3 * log(8 / 3) + log(4 / 3) / 3, rel=1e-12)


def test_real_samples_are_of_high_quality_as_often_as_rayleigh_says() -> None:
    random = np.random.default_rng(2)
    points = SQUARE[random.integers(4, size=100_000)] + 0.1 * random.standard_normal((100_000, 2))

    share = find_modes(points, SQUARE, 0.1).high_quality

    expected = 1 - np.exp(-9 / 2)
    assert share == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 100_000))


def test_without_a_good_sample_there_is_no_divergence() -> None:
    modes = find_modes(np.full((3, 2), 9.0), SQUARE, 0.1)

    assert (modes.found, modes.high_quality, modes.reverse_kl) == (0, 0.0, None)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(Refused, match="no samples; "):
        find_modes(np.empty((0, 2)), SQUARE, 0.1)
    with pytest.raises(Refused, match="found 1 samples of 2 that are not finite"):
        find_modes(np.array([[0.0, np.nan], [0.0, 0.0]]), SQUARE, 0.1)
    with pytest.raises(Refused, match="no samples in any mode"):
        reverse_kl(np.zeros(8))
