"""Warnings: said when it is time, once, and again after it was well in between."""

from __future__ import annotations

import numpy as np
import pytest

from ganlib.training.health import WINDOW, Health, real_spread, spread


def test_spread_is_the_mean_distance_within_rows() -> None:
    grid = np.zeros((4, 2, 2, 1), dtype=np.uint8)  # two rows of two: the first differs by 30, the second not at all
    grid[1] = 30
    grid[2:] = 200
    assert spread(grid, 2) == pytest.approx(15.0)


def test_real_spread_is_within_classes_where_there_are_some() -> None:
    images = np.zeros((4, 2, 2, 1), dtype=np.uint8)
    images[1], images[2], images[3] = 10, 100, 130  # two classes, 10 and 30 apart within
    labels = np.array([0, 0, 1, 1])
    assert real_spread(images, labels) == pytest.approx(20.0)
    assert real_spread(images, None) == pytest.approx((10 + 100 + 130 + 90 + 120 + 30) / 6)
    assert real_spread(images, np.arange(4)) == real_spread(images, None)
    assert real_spread(images * 0, None) == 1.0


def test_a_discriminator_that_ignores_the_condition_is_named_once() -> None:
    health = Health(0.1)
    said = [health.warnings({"p_real": 0.6, "p_wrong": 0.59}) for _ in range(3 * WINDOW)]
    assert [bool(lines) for lines in said] == [step == WINDOW - 1 for step in range(3 * WINDOW)]
    assert "ignores the condition" in said[WINDOW - 1][0]
    assert not health.warnings({"p_real": 0.7, "p_wrong": 0.3})
    again = [health.warnings({"p_real": 0.5, "p_wrong": 0.5}) for _ in range(WINDOW)]
    assert [bool(lines) for lines in again] == [False] * (WINDOW - 1) + [True]


def test_without_wrong_conditions_there_is_nothing_to_ignore() -> None:
    health = Health(0.1)
    assert not any(health.warnings({"p_real": 0.5, "p_fake": 0.5}) for _ in range(2 * WINDOW))


def test_a_collapse_is_named_with_what_would_do() -> None:
    health = Health(0.1)
    assert not health.warnings({"sample_spread": 0.4})
    (line,) = health.warnings({"sample_spread": 0.02})
    assert "0.020 times as much" in line and "r1 and r2" in line
    assert not health.warnings({"sample_spread": 0.01})
