from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from flows.interval import mean_interval, student_quantile


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 10, 29, 100])
@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95, 0.99, 0.999])
def test_quantiles_are_those_of_scipy(freedom: int, confidence: float) -> None:
    expected = stats.t.ppf((1 + confidence) / 2, freedom)

    assert student_quantile(confidence, freedom) == pytest.approx(expected, rel=1e-9)


def test_quantiles_of_printed_tables() -> None:
    assert student_quantile(0.95, 4) == pytest.approx(2.776, abs=5e-4)
    assert student_quantile(0.99, 9) == pytest.approx(3.250, abs=5e-4)
    assert student_quantile(0.5, 1) == pytest.approx(1.0)  # the quartile of Cauchy's distribution


def test_an_interval_by_hand() -> None:
    found = mean_interval([1.0, 2.0, 3.0], 0.95)  # s = 1, t = 4.30265 with 2 degrees of freedom

    assert found.mean == pytest.approx(2.0)
    assert (found.low, found.high) == pytest.approx((2 - 4.30265 / math.sqrt(3), 2 + 4.30265 / math.sqrt(3)), abs=1e-5)
    assert str(mean_interval([0.5, 0.5], 0.9)) == "0.5 [0.5, 0.5]"


@pytest.mark.parametrize("n", [2, 5, 20])
def test_intervals_hold_the_true_mean_as_often_as_they_say(n: int) -> None:
    draws = np.random.default_rng(7).normal(3.0, 0.5, (4000, n))
    held = [interval.low <= 3.0 <= interval.high for interval in (mean_interval(row.tolist(), 0.9) for row in draws)]

    assert np.mean(held) == pytest.approx(0.9, abs=0.015)  # three standard deviations of 4000 trials


def test_too_few_values_or_values_that_are_not_finite_have_no_interval() -> None:
    for values in ([], [1.0], [1.0, float("nan")], [1.0, float("inf")]):
        with pytest.raises(ValueError, match="at least 2 finite values"):
            mean_interval(values, 0.95)
