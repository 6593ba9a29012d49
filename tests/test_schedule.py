from __future__ import annotations

import pytest

from ganlib.schedule import between


def test_values_between() -> None:
    assert [between(2.0, 6.0, progress, "linear") for progress in (-1, 0, 0.25, 1, 2)] == [2, 2, 3, 6, 6]
    cosine = [between(0.0, 1.0, progress, "cosine") for progress in (0, 1 / 3, 0.5, 1)]
    assert cosine == pytest.approx([0, 0.25, 0.5, 1])
    assert [between(1.0, 0.01, progress, "exponential") for progress in (0, 0.5, 1)] == pytest.approx([1, 0.1, 0.01])
