from __future__ import annotations

import numpy as np
import pytest

from ganlib.evaluation.agreement import Proportion, attribute_agreement, label_agreement, wilson_interval
from ganlib.problems import Refused


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_has_the_published_values(hits: int, count: int, low: float, high: float) -> None:
    # Newcombe 1998, Two-sided confidence intervals for the single proportion, table I, method 3
    assert wilson_interval(hits, count) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_wilson_interval_mirrors() -> None:
    low, high = wilson_interval(7, 40)

    assert wilson_interval(33, 40) == (pytest.approx(1 - high), pytest.approx(1 - low))
    assert wilson_interval(20, 20)[1] == 1.0


def test_wilson_interval_of_nothing_is_refused() -> None:
    with pytest.raises(Refused, match="no trials"):
        wilson_interval(0, 0)


def test_label_agreement_counts_the_largest_logit() -> None:
    logits = np.array([[0.1, 0.9, 0.0], [2.0, -1.0, 1.0], [0.0, 0.0, 3.0], [5.0, 6.0, 4.0]])

    assert label_agreement(logits, np.array([1, 0, 2, 0])) == Proportion(hits=3, count=4)


def test_attributes_that_a_caption_leaves_open_are_not_counted() -> None:
    logits = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    values = np.array([0, 1, 1, 0])  # the first and third image show what is described

    assert attribute_agreement(logits, values, np.array([True, True, True, True])) == Proportion(2, 4)
    assert attribute_agreement(logits, values, np.array([True, False, True, False])) == Proportion(2, 2)
    assert attribute_agreement(logits, values, np.array([False, True, False, False])) == Proportion(0, 1)
    assert attribute_agreement(logits, values, np.zeros(4, dtype=bool)) is None
