"""The discriminant map against data whose directions are known."""

from __future__ import annotations

import numpy as np
import pytest

from ganlib.text.discriminant import discriminant_map


def test_what_images_share_is_loud_and_wording_fades() -> None:
    """Signal of variance 0.01 between images, wording of variance 9 within them, in directions at an angle."""
    random = np.random.default_rng(0)
    images, captions = 2000, 4
    signal = random.choice([-0.1, 0.1], images).repeat(captions)
    wording = random.normal(0, 3, images * captions)
    slight = random.normal(0, 0.05, images * captions)  # so that the signal is not free of scatter
    vectors = np.stack([signal + slight + wording, wording, random.normal(0, 1, len(signal))], axis=1)
    centre, matrix = discriminant_map(vectors, np.full(images, captions))
    mapped = (vectors - centre) @ matrix
    assert abs(np.corrcoef(mapped[:, 0], signal)[0, 1]) == pytest.approx(0.1 / np.hypot(0.1, 0.05), abs=0.01)
    variances = mapped.var(axis=0)
    # lambda = 4: reliability 4 / 5; the others' is 0 up to chance
    assert variances[0] / variances.sum() > 0.9
    assert np.square(mapped).mean() == pytest.approx(1, rel=1e-9)


def test_reliability_is_the_share_between_images() -> None:
    random = np.random.default_rng(1)
    counts = np.full(20_000, 3)
    between = np.array([2.0, 1.0])  # standard deviations; within 1 each: lambda 4 and 1, reliability 4/5 and 1/2
    vectors = (random.normal(0, 1, (len(counts), 2)) * between).repeat(3, axis=0) + random.normal(0, 1, (60_000, 2))
    centre, matrix = discriminant_map(vectors, counts)
    variances = ((vectors - centre) @ matrix).var(axis=0)
    assert variances[0] / variances[1] == pytest.approx((4 / 5) / (1 / 2), rel=0.05)


def test_without_two_captions_of_an_image_elements_are_standardised() -> None:
    vectors = np.random.default_rng(2).normal(3, [1.0, 5.0, 0.0], (50, 3))
    centre, matrix = discriminant_map(vectors, np.ones(50, dtype=np.int64))
    mapped = (vectors - centre) @ matrix
    np.testing.assert_allclose(mapped.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(mapped.std(axis=0), [1, 1, 0], atol=1e-12)


def test_few_captions_and_directions_without_variance_are_no_trouble() -> None:
    vectors = np.zeros((5, 8))
    vectors[:, 0] = [0, 1, 2, 3, 5]
    centre, matrix = discriminant_map(vectors, np.array([2, 2, 1]))
    assert np.isfinite((vectors - centre) @ matrix).all()
