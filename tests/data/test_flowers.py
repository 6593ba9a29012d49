"""Drawn flowers: the same bytes again, a longer dataset begins with the shorter, attributes independent and visible."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare

from ganlib.data import flowers


@pytest.mark.parametrize("size", [32, 64])
def test_an_image_depends_on_seed_and_index_alone(size: int) -> None:
    together, attributes = flowers.draw(np.arange(40), seed=3, size=size)
    again, _ = flowers.draw(np.arange(39, -1, -1), seed=3, size=size)
    np.testing.assert_array_equal(together, again[::-1])
    alone, one = flowers.draw(17, seed=3, size=size)
    assert alone.shape == (1, size, size, 3)
    assert alone.dtype == np.uint8
    np.testing.assert_array_equal(alone[0], together[17])
    assert {name: values[0] for name, values in one.items()} == {name: v[17] for name, v in attributes.items()}


def test_another_seed_draws_others() -> None:
    first, _ = flowers.draw(np.arange(8), seed=0, size=32)
    second, _ = flowers.draw(np.arange(8), seed=1, size=32)
    assert all(np.abs(a.astype(int) - b).mean() > 5 for a, b in zip(first, second, strict=True))


def test_the_size_does_not_change_what_is_drawn() -> None:
    small, _ = flowers.draw(np.arange(60), seed=0, size=32)
    large, _ = flowers.draw(np.arange(60), seed=0, size=64)
    halved = large.reshape(60, 32, 2, 32, 2, 3).mean(axis=(2, 4))
    assert np.abs(halved - small).mean() < 6  # outlines are a pixel wide at either size
    assert all(np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9 for a, b in zip(halved, small, strict=True))


def test_attributes_are_uniform_and_independent() -> None:
    values = flowers.attributes_of(np.arange(20_000), seed=0)
    for name, indices in values.items():
        counts = np.bincount(indices, minlength=len(flowers.ATTRIBUTES[name]))
        assert len(counts) == len(flowers.ATTRIBUTES[name])
        assert chisquare(counts).pvalue > 1e-3, name
    for one, other in combinations(values, 2):
        table = np.zeros((len(flowers.ATTRIBUTES[one]), len(flowers.ATTRIBUTES[other])))
        np.add.at(table, (values[one], values[other]), 1)
        assert chi2_contingency(table).pvalue > 1e-3, (one, other)


def test_colours_in_the_picture_are_those_of_the_attributes() -> None:
    images, values = flowers.draw(np.arange(400), seed=0, size=32)
    corner = images[:, 30:, :2].reshape(400, -1, 3).mean(1)
    middle = images[:, 14:18, 14:18].reshape(400, -1, 3).mean(1)
    for seen, name, palette in (
        (corner, "background", flowers.BACKGROUNDS),
        (middle, "centre_colour", flowers.CENTRE_COLOURS),
    ):
        colours = np.array(list(palette.values()))
        nearest = np.square(seen[:, None] - colours).sum(2).argmin(1)
        assert (nearest == values[name]).mean() > 0.99, name


def test_a_larger_flower_covers_more() -> None:
    images, values = flowers.draw(np.arange(300), seed=0, size=32)
    background = images[:, :1, :1].astype(int)
    covered = (np.abs(images - background).sum(3) > 90).mean((1, 2))
    means = [covered[values["size"] == size].mean() for size in range(3)]
    assert means[0] * 1.3 < means[1]
    assert means[1] * 1.2 < means[2]


@pytest.mark.parametrize("size", [32, 64])
def test_the_outline_has_as_many_petals_as_stated(size: int) -> None:
    """Along a circle through the petals' tips, flower and background alternate as often as there are petals."""
    images, values = flowers.draw(np.arange(400), seed=1, size=size)
    chosen = np.flatnonzero((values["petal_shape"] == 1) & (values["size"] == 2))  # pointed: one tip for each petal
    angle = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    right = 0
    for index in chosen:
        image = images[index].astype(float)
        flower = np.abs(image - image[:, :1]).sum(2)  # rows have one background colour
        weight = flower > 120
        y, x = (np.average(axis, weights=weight) for axis in np.indices(flower.shape))
        radius = 0.74 * 0.435 * size
        ring = flower[
            np.round(y - radius * np.cos(angle)).astype(int), np.round(x + radius * np.sin(angle)).astype(int)
        ]
        spectrum = np.abs(np.fft.rfft(ring - ring.mean()))[2:10]
        right += int(spectrum.argmax()) + 2 == list(flowers.PETAL_COUNTS.values())[values["petal_count"][index]]
    assert right / len(chosen) > 0.9


def test_classes_are_petal_colour_by_shape() -> None:
    assert len(flowers.CLASSES) == 24
    assert flowers.CLASSES[1] == "red pointed"
